"""Which of the user's own code a cache was made with: names, and digests of the source files.

They stand beside the identity, not in it: a comment must not cost a teacher pass. Where a source
has changed, the teacher is asked again on some rows before anything goes on with it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from reskd.common.errors import CacheError
from reskd.common.experiment import Experiment
from reskd.common.own_code import own_code, source_digest
from reskd.teacher_cache.format.manifest import Manifest

Sources = dict[str, str]
"""Name to hexadecimal sha256."""


def sources_of(experiment: Experiment, *, num_classes: int) -> Sources:
    """The code of the user's that decides what a cache of an experiment holds, as it is now.

    Raises:
        ExperimentError: If it cannot be loaded.
    """
    found: Sources = {}
    model = experiment.teacher.model
    if model.recognizer == "python":
        # Imported here: reading a cache needs no torch.
        from reskd.common.models.own_network import own_source

        found[model.backbone] = own_source(model, num_classes=num_classes)
    if (reader := experiment.data.reader) is not None:
        found[reader] = source_digest(own_code("readers", reader))
    return found


def changed_sources(manifest: Manifest, now: Mapping[str, str]) -> list[str]:
    """Names of code that has another source than a cache was made with, or was found equal to."""
    return [name for name, digest in now.items() if digest not in manifest.sources.get(name, ())]


def check_sources(folder: Path, manifest: Manifest, experiment: Experiment) -> None:
    """Refuse a cache that was made with other source than there is now.

    Raises:
        CacheError: If it was.
        ExperimentError: If the experiment's code cannot be loaded.
    """
    now = sources_of(experiment, num_classes=len(manifest.class_names))
    if changed := changed_sources(manifest, now):
        raise CacheError(
            f"The source of {' and '.join(changed)} is not what it was when {folder} was written. "
            "If it says the same still, `reskd cache-teacher EXPERIMENT --cache "
            f"{folder} --accept-source` compares 32 rows with the teacher as it is now and "
            "remembers that; else write another cache."
        )


def with_sources(manifest: Manifest, now: Mapping[str, str]) -> Manifest:
    """The same, with these sources among those that are known to say what it holds."""
    known = {
        name: tuple(dict.fromkeys((*manifest.sources.get(name, ()), digest)))
        for name, digest in now.items()
    }
    return replace(manifest, sources={**manifest.sources, **known})
