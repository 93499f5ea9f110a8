"""The page's own files: HTML, style sheet and JavaScript, without a framework."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).with_name("page")
