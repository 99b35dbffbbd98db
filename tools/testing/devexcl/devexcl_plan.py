# SPDX-License-Identifier: GPL-2.0
"""Planning: what there is to run, what of it is asked for, and who runs it next."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import fnmatch
import threading
from dataclasses import dataclass
from typing import Iterable, Optional

from devexcl_build import Image
from devexcl_host import DevexclError

TEST_SECONDS = 60
PROGRAM_SECONDS = 600
# A cell that hangs is ended by its program after 60 s, and so is the same cell
# with nothing held by the device. Only if neither helps it is our turn.
CELL_SECONDS = 150

# So much slower is a kernel with everything switched on.
DEBUG_SLOWNESS = 10

# So many cells at once: what is lost with a crash is little, and so is the cost of a start.
CELLS_AT_ONCE = 400
FEWEST_AT_ONCE = 10


@dataclass(frozen=True)
class Job:
	"""One test, and how it is run."""

	program: str
	test: str
	command: tuple[str, ...]
	cell: bool = False	# one of many short ones, made from a table
	batched: bool = False	# is run with others of its program in one go
	place: int = 0		# in the order of the reports

	@property
	def name(self) -> str:
		return self.test or self.program


@dataclass(frozen=True)
class Limits:
	"""How long things may take, in seconds."""

	test: float = TEST_SECONDS
	program: float = PROGRAM_SECONDS
	cell: float = CELL_SECONDS

	@staticmethod
	def of(image: Image, test: Optional[float] = None) -> 'Limits':
		"""The selftests' own settings file gives the limit of a program."""
		program = PROGRAM_SECONDS
		settings = image.tests / 'settings'
		if settings.is_file():
			for line in settings.read_text(encoding='utf-8').splitlines():
				key, _, value = line.partition('=')
				if key.strip() == 'timeout' and value.strip().isdigit():
					program = float(value) or PROGRAM_SECONDS
		slow = DEBUG_SLOWNESS if image.manifest['debug'] else 1
		# How long a cell may take is for its program to say, whatever the kernel.
		return Limits((test or TEST_SECONDS) * slow, program * slow, CELL_SECONDS * min(slow, 2))


# What a slow kernel has to do in a check, and one that differs little from another:
# a few minutes on two CPUs with everything switched on, where a test that is a
# program of its own costs four seconds, and a cell one. Enough to have each
# operation of mm and the device's main paths run under all checks of the kernel.
SUBSET_TESTS = ('aperture_exclusive', 'aperture_move.move.mixed.*', 'aperture_move.huge.pfn', 'fault', 'trace')
SUBSET_BACKINGS = ('base',)
SUBSET = (f'of the matrix, each operation on {" and ".join(SUBSET_BACKINGS)}, or else on one other kind of memory, '
	  f'with all of it held; and {", ".join(SUBSET_TESTS)}')

# The module is put to the proof as well, when everything else is done.
LAST_JOBS = (Job('module', 'module.unload', ('@unload',)),
	     Job('module', 'module.kmemleak', ('@kmemleak',)),
	     Job('module', 'module.reload', ('@load',)))


def matches(pattern: str, job: Job) -> bool:
	"""A TESTS= glob is held against the program, the test, and the test without its program."""
	names = {job.name, job.program}
	if job.test:
		names.add(job.test[len(job.program) + 1:])
	return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def select(jobs: list[Job], patterns: list[str]) -> list[Job]:
	"""The jobs that are asked for; a pattern that asks for nothing is a mistake."""
	if not patterns:
		return jobs
	for pattern in patterns:
		if not any(matches(pattern, job) for job in jobs):
			names = sorted({job.name for job in jobs} | {job.program for job in jobs})
			close = difflib.get_close_matches(pattern.strip('*'), names, n=8, cutoff=0.4) or \
				sorted({job.program for job in jobs})
			raise DevexclError(f"TESTS='{pattern}' matches no test. There are, for example: {', '.join(close)}")
	return [job for job in jobs if any(matches(pattern, job) for pattern in patterns)]


def subset(jobs: list[Job]) -> list[Job]:
	"""The jobs that SUBSET speaks of."""
	wanted: set[Job] = set()
	rows: dict[tuple[str, str], list[Job]] = {}
	for job in jobs:
		if not job.cell:
			asked = any(matches(pattern, job) for pattern in SUBSET_TESTS)
			wanted |= {job} if asked or job in LAST_JOBS else set()
		elif job.test.count('.') == 2:		# no hold is named: all
			rows.setdefault((job.program, job.test.split('.')[1]), []).append(job)
	for row in rows.values():
		wanted |= set([job for job in row if job.test.split('.')[2] in SUBSET_BACKINGS] or row[:1])
	return [job for job in jobs if job in wanted]


class Queue:
	"""The jobs that are still to be run, shared by all guests."""

	def __init__(self, jobs: Iterable[Job], guests: int = 1) -> None:
		self.guests = guests
		self._lock = threading.Lock()
		self._jobs = collections.deque(dataclasses.replace(job, place=place) for place, job in enumerate(jobs, 1))

	def __len__(self) -> int:
		return len(self._jobs)

	def take(self) -> list[Job]:
		"""The next job, with those that can be run in one go with it; nothing if there is none."""
		with self._lock:
			taken: list[Job] = []
			most = self._at_once()
			while self._jobs and len(taken) < most and (not taken or self._together(taken[0], self._jobs[0])):
				taken.append(self._jobs.popleft())
			return taken

	def _at_once(self) -> int:
		"""Less towards the end, so that all guests come to it at the same time."""
		share = len(self._jobs) // (2 * self.guests)
		return CELLS_AT_ONCE if self.guests == 1 else max(FEWEST_AT_ONCE, min(CELLS_AT_ONCE, share))

	@staticmethod
	def _together(first: Job, job: Job) -> bool:
		return first.batched and job.batched and first.program == job.program

	def put_back(self, jobs: Iterable[Job]) -> None:
		"""What was taken, and not done."""
		with self._lock:
			self._jobs.extendleft(reversed(list(jobs)))
