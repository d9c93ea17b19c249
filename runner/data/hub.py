"""Rows of a data set on the Hugging Face hub, through the `datasets` library. Its own code is never run: version 4 and later cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.sources import HubName

_TIMEOUT_S = 10.0


class HubRows:
    """One split of a data set, downloaded into the cache of the `datasets` library. With HF_HUB_OFFLINE=1 it comes from there."""

    def __init__(self, name: HubName) -> None:
        """Download, or find in the cache.

        Raises:
            InputError: the library is missing, the hub cannot be reached, or it has no such data set, configuration or split.
        """
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from huggingface_hub import HfApi, constants

        if not constants.HF_HUB_OFFLINE:
            try:  # `datasets` would try again and again for half a minute
                HfApi().dataset_info(name.id, timeout=_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - huggingface_hub has used three HTTP libraries, each with its own errors
                raise _unreachable(name, error) from None
        try:
            import datasets
        except ImportError:
            raise InputError(f"{name.id}: reading data from the hub needs datasets", hint="pip install 'ftadvise[run]'") from None
        try:
            self._rows = datasets.load_dataset(name.id, name.config, split=name.split)
        except ValueError as error:  # names the splits or configurations there are
            raise InputError(f"{name.id}: {' '.join(str(error).split())[:200]}", hint="owner/name/CONFIGURATION:SPLIT names both") from None
        except Exception as error:  # noqa: BLE001 - whatever the library's readers raise; messages may hold addresses and headers
            raise _unreachable(name, error) from None

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """("row N", the row) of each row."""
        return ((f"row {number}", row) for number, row in enumerate(self._rows, 1))

    @property
    def label_names(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the classes by column."""
        features = dict(self._rows.features or {})
        return {column: tuple(kind.names) for column, kind in features.items() if hasattr(kind, "names")}


def _unreachable(name: HubName, error: Exception) -> InputError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return InputError(f"{name.id}: gated on the hub", hint="ask for access on its page, then set HF_TOKEN or run `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"{name.id}: no such file here, and no such data set on the hub, or it is private",
            hint="check the spelling; for private data set HF_TOKEN",
        )
    return InputError(
        f"{name.id}: no such file here, and the hub cannot be reached for it ({type(error).__name__})",
        hint="check the path, the network and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses what has been downloaded",
    )
