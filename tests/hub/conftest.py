"""A hub on loopback, in place of the real one."""

import pytest

from .stub import Hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stub, which huggingface_hub asks in this test, with a cache of its own."""
    constants = pytest.importorskip("huggingface_hub").constants
    served = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", served.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_stub")
    yield served
    served.shutdown()
    served.server_close()
    assert not served.unknown, "the stub was asked what it cannot answer"
