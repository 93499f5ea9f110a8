from pathlib import Path
import pytest
@pytest.fixture(scope="session")
def tiny_runs():
    return {"autoregressive": Path("/tmp/ev/ar"), "ctc": Path("/tmp/ev/ctc")}
