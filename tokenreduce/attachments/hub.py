"""Attachments and models in repositories of the Hugging Face hub; ``huggingface_hub`` is imported when one is named."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import OptionError, PluginError
from .checkpoint import CONFIG, WEIGHTS

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
CARD = "README.md"


def library() -> Any:
    """``huggingface_hub``.

    Raises:
        PluginError: it is not installed.
    """
    try:
        importlib.import_module("huggingface_hub.errors")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise PluginError(
            "repositories of the Hugging Face hub are read and written through huggingface_hub, which is not "
            "installed: pip install huggingface_hub (or tokenreduce[hub]), or name a folder"
        ) from error


def is_repository(source: str | Path) -> bool:
    """Whether a source is ``"user/repo"`` of the hub: text of that form where no folder has its name."""
    return isinstance(source, str) and REPOSITORY.fullmatch(source) is not None and not Path(source).exists()


def attachment_folder(source: str | Path, revision: str | None = None, token: Any = None) -> Path:
    """A folder with the files of an attachment: the one named, or those of a repository, in the hub's cache.

    Nothing but ``tokenreduce.json`` and ``reducer.safetensors`` is fetched, both of one commit.

    Raises:
        OptionError: no such repository, revision or file; or a revision of a folder. PluginError: no huggingface_hub.
    """
    if not is_repository(source):
        check_local(source, revision)
        return Path(source)
    hub = library()
    with _asking(hub, str(source), revision):
        folder = Path(hub.hf_hub_download(source, CONFIG, revision=revision, token=token)).parent
        with suppress(hub.errors.EntryNotFoundError):  # then no reducer of it learns
            hub.hf_hub_download(source, WEIGHTS, revision=folder.name, token=token)  # the commit that it was of
    return folder


def snapshot(source: str | Path, revision: str | None, token: Any, patterns: Sequence[str]) -> Path:
    """A folder with the files of a whole model that match, of one commit.

    Raises:
        OptionError: no such repository or revision; or a revision of a folder. PluginError: no huggingface_hub.
    """
    if not is_repository(source):
        check_local(source, revision)
        return Path(source)
    hub = library()
    with _asking(hub, str(source), revision):
        return Path(hub.snapshot_download(source, revision=revision, token=token, allow_patterns=list(patterns)))


def check_local(source: str | Path, revision: str | None) -> None:
    """Raise OptionError for a revision of something that is not a repository."""
    if revision is not None:
        raise OptionError(
            f"revision={revision!r} names a commit, branch or tag of a repository, but {str(source)!r} is "
            f"{'a folder' if Path(source).exists() else 'neither a folder nor of the form user/repo'}; leave revision "
            'out, or name a repository ("user/repo")'
        )


def push(
    folder: Path, repository: str, *, revision: str | None, private: bool | None, token: Any, message: str, pr: bool
) -> str:
    """Upload a folder, making the repository where there is none; the address of the commit.

    Raises:
        OptionError: not a repository's name, or the hub refuses. PluginError: no huggingface_hub.
    """
    check_name(repository)
    hub = library()
    with _asking(hub, repository, revision):
        api = hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None and not pr:
            api.create_branch(repository, branch=revision, exist_ok=True)
        done = api.create_commit(
            repository,
            [hub.CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())],
            commit_message=message,
            revision=revision,
            create_pr=pr,
        )
    return str(done.pr_url if pr else done.commit_url)


def card_of(repository: str, revision: str | None, token: Any) -> str:
    """The model card of a repository; "" where there is none, or no repository yet."""
    check_name(repository)
    hub = library()
    missing = (hub.errors.EntryNotFoundError, hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError)
    with _asking(hub, repository, revision):
        try:
            file = hub.hf_hub_download(repository, CARD, revision=revision, token=token)
        except missing:
            return ""
        return Path(file).read_text(encoding="utf-8")


def check_name(repository: Any) -> None:
    """Raise OptionError for what is not a repository's name."""
    if not isinstance(repository, str) or REPOSITORY.fullmatch(repository) is None:
        raise OptionError(f"a repository of the hub is named 'user/repo', got {repository!r}")


@contextmanager
def _asking(hub: Any, repository: str, revision: str | None) -> Iterator[None]:
    """Say in words what the hub answers."""
    where = f"{repository!r}" + (f" at revision {revision!r}" if revision is not None else "")
    try:
        yield
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        kind = type(error).__name__
        raise OptionError(
            f"the hub cannot be used for {where} ({kind}: {first.strip()}). Check the name and the revision, log in "
            "(hf auth login) for what is private, or give a folder"
        ) from error
