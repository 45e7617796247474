"""Videos that a cache calls unreadable, asked once more: units of those that answer are due."""

from contextlib import closing
from pathlib import Path

from reskd.common.console import progress, say
from reskd.teacher_cache.fill.cut import CutTask, cut_videos
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.format.commits import TAKEN_OUT, failures, read_commits
from reskd.teacher_cache.format.manifest import Manifest


def readable_after_all(job: Job, folder: Path, manifest: Manifest) -> set[int]:
    """Videos that some run could not read and that can be decoded now.

    Raises:
        StoppedShortError: If the system cannot read one.
    """
    failed: set[int] = set()
    for generation in manifest.generations:
        commits = read_commits(folder, generation.number, manifest.units_of(generation))
        failed |= {video for video, why in failures(commits.values()).items() if why != TAKEN_OUT}
    asked = sorted(video for video in failed if video not in job.gone)
    views = range(manifest.layout.num_views)
    tasks = [
        CutTask(place, job.entries[video], views, drawn_as=job.id_of(video))
        for place, video in enumerate(asked)
    ]
    readable: set[int] = set()
    with (
        progress("asking again", len(tasks), unit="videos") as advance,
        closing(cut_videos(job.source, tasks, views=len(views))) as cuts,
    ):
        for cut in cuts:
            name = cut.task.entry.id
            if cut.failure is None:
                readable.add(asked[cut.task.place])
                say(f"can be read now: {name}")
            else:
                say(f"still unreadable: {name}: {cut.failure}")
            advance()
    return readable
