"""Getting repositories from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import HubError
from zoo.hub.reference import is_repository

__all__ = ["is_repository", "snapshot"]

MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "SHA256SUMS"]
PICKLES = ["*.bin", "*.pth", "*.json", "*.txt"]


def snapshot(repository: str, revision: str | None = None) -> Path:
    """The folder of a Hub repository's weights and configuration at ``revision``, downloaded or from the cache.

    The revision is resolved to one commit, which all files come from. Pickled weights (``.bin``, ``.pth``) are fetched
    only where the repository has no safetensors, and nothing in them is executed.

    Raises ``HubError`` where the Hub cannot be reached or refuses, or the repository does not exist.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repository}@{revision}" if revision else repository
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=MODEL_FILES))
        if not any(folder.rglob("*.safetensors")):
            commit = folder.name
            folder = Path(snapshot_download(repository, revision=commit, allow_patterns=PICKLES))
        return folder
    except GatedRepoError as error:
        raise HubError(f"{where}: access is restricted; ask for it on its page, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"{where}: no such repository, or a private one; check the name, or `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{where}: the repository has no such revision") from error
    except HFValidationError as error:
        raise HubError(f"{where}: not a repository's name, expected owner/name") from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{where}: the Hub could not be reached and the files are not in the cache; check the network, or give "
            "weights= a local folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise HubError(f"{where}: the Hub could not be read ({_line(error)}); try again") from error
    except Exception as error:
        # The client lets its HTTP library's own errors through when a connection breaks.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise HubError(f"{where}: the connection to the Hub broke ({type(error).__name__}); try again") from error
        raise


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
