"""A file of its own for every system, whatever it is called."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nat.reporting.outputs import file_names

NAMES = st.lists(st.text(st.sampled_from("aA b-/.|2_ä\n"), max_size=6), unique=True, max_size=8)


def test_a_plain_name_stays_and_another_gets_a_number() -> None:
    assert file_names(["CTC", "beam 4"]) == {"CTC": "CTC", "beam 4": "beam_4"}
    assert file_names(["a b", "a/b", "A_b"]) == {"A_b": "A_b", "a b": "a_b-2", "a/b": "a_b-3"}
    assert file_names(["source", "Reference"], taken=["source", "reference"]) == {
        "Reference": "Reference-2", "source": "source-2",
    }  # fmt: skip


@given(NAMES)
def test_files_differ_on_every_file_system_and_do_not_depend_on_order(names: list[str]) -> None:
    files = file_names(names, taken=["a", "2"])
    assert list(files) == names or set(files) == set(names)
    assert len({file.lower() for file in files.values()} | {"a", "2"}) == len(names) + 2
    assert files == file_names(names[::-1], taken=["a", "2"])
    assert all(file and "/" not in file and "\n" not in file for file in files.values())


def test_long_names_fit_a_file_system() -> None:
    files = file_names(["ä" * 300, "ä" * 301])
    assert all(len(f".{file}.jsonl.part".encode()) <= 255 for file in files.values())
    assert len(set(files.values())) == 2
