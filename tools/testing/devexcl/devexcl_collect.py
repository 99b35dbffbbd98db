# SPDX-License-Identifier: GPL-2.0
"""Collecting: runs the tests in guests, and writes down what happened.

Nothing is judged here. The outcome is a list of attempts, one for each time
that a program was run, kept in record.jsonl: from it the verdicts can be made,
and made again.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import fnmatch
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

import devexcl_batch
import devexcl_ktap
import devexcl_splat
from devexcl_attempt import CRASH, HANG, RECORD, Attempt, full_name
from devexcl_build import Image
from devexcl_host import DevexclError, terminal
from devexcl_qemu import BootFailed, Event, Guest, unescape

TEST_SECONDS = 60
PROGRAM_SECONDS = 600
LIST_SECONDS = 30
# Past its limit the guest itself ends a test, and may take that long for it.
GRACE_SECONDS = 30


@dataclass(frozen=True)
class Job:
	program: str
	test: str
	command: tuple[str, ...]
	cell: bool = False	# one of many short ones, which are run in batches

	@property
	def name(self) -> str:
		return self.test or self.program


@dataclass(frozen=True)
class Limits:
	test: float = TEST_SECONDS
	program: float = PROGRAM_SECONDS

	def of_batch(self, cells: int) -> float:
		"""Two that hang, and the others: a cell takes milliseconds, and has a second."""
		return self.test * (2 + cells / 60)

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
		slow = 5 if image.manifest['debug'] else 1
		return Limits((test or TEST_SECONDS) * slow, program * slow)


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


class Collector:
	"""Runs jobs in one guest after the other until all are done."""

	def __init__(self, image: Image, accelerator: tuple[str, str], folder: Path, *, limits: Limits,
		     patterns: list[str], cmdline: tuple[str, ...] = (),
		     progress: Callable[['Collector', str], None] = lambda collector, name: None,
		     finished: Callable[[Attempt], None] = lambda attempt: None,
		     expected: Callable[[str, str], bool] = lambda name, release: False,
		     needs_fresh_boot: Callable[[Attempt], bool] = lambda attempt: bool(
			     devexcl_splat.splats(attempt.console))) -> None:
		self.image = image
		self.accelerator = accelerator
		self.folder = folder
		self.limits = limits
		self.patterns = patterns
		self.cmdline = cmdline
		self.progress = progress
		self.finished = finished
		self.expected = expected
		self.needs_fresh_boot = needs_fresh_boot
		self.attempts: list[Attempt] = []
		self.boots = 0
		self.boot_seconds = 0.0
		self.total = 0
		self.done = 0
		self.position = 0
		self.complete = False		# has every test there is been run?
		self.excluded: dict[str, dict[str, int]] = {}
		self.release = ''
		self.spent: dict[str, float] = collections.defaultdict(float)
		self._crashed: set[Job] = set()
		self._guest_lost = False
		self._next_id = 0
		self._record = None
		self._written = 0

	# -- the list of tests, without running any

	def list_jobs(self) -> list[Job]:
		with self._boot() as guest:
			jobs = self._plan(guest)
			guest.power_off()
			return jobs

	# -- all of it

	def run(self) -> list[Attempt]:
		queue: Optional[collections.deque[Job]] = None
		with (self.folder / RECORD).open('w', encoding='utf-8') as self._record:
			try:
				while queue is None or queue:
					with self._boot() as guest:
						if queue is None:
							queue = collections.deque(self._select(self._plan(guest)))
							self.total = len(queue)
						self._serve(guest, queue)
				self.complete = not self.patterns
			finally:
				self._write_down(len(self.attempts))
		return self.attempts

	def _serve(self, guest: Guest, queue: collections.deque) -> None:
		"""Runs jobs until they are done or the guest is lost for further ones."""
		while queue:
			self.position = self.done
			jobs = self._next(queue)
			attempts = self._run_batch(guest, jobs) if len(jobs) > 1 else [self._run(guest, jobs[0])]
			for attempt in attempts:
				self._account(attempt, next(job for job in jobs if job.name == attempt.name), queue)
			if self._guest_lost:
				break
			if any(self.needs_fresh_boot(attempt) for attempt in attempts):
				self._power_off(guest)
				break
		else:
			self._power_off(guest)

	def _next(self, queue: collections.deque) -> list[Job]:
		"""The next job; with those that can be run in one go with it, if there are any."""
		first = queue[0]
		together = itertools.takewhile(lambda job: job.cell and job.program == first.program
					       and job not in self._crashed, queue)
		return list(itertools.islice(together, devexcl_batch.CELLS_AT_ONCE)) or [first]

	def _account(self, attempt: Attempt, job: Job, queue: collections.deque) -> None:
		queue.remove(job)
		if attempt.how == CRASH and job not in self._crashed and not self.expected(job.name, self.release):
			self._crashed.add(job)
			queue.appendleft(job)	# once more, alone, in the next guest
		else:
			self.done += 1
		self.finished(attempt)

	def _begun(self, name: str) -> None:
		self.position += 1
		self.progress(self, name)

	def _power_off(self, guest: Guest) -> None:
		self.attempts[-1].console += guest.power_off()

	@contextlib.contextmanager
	def _boot(self) -> Iterator[Guest]:
		"""A guest that is ready; a second try if the first one fails."""
		for last_try in (False, True):
			self.boots += 1
			start = time.monotonic()
			with Guest(self.image, accelerator=self.accelerator, cmdline=self.cmdline,
				   console_log=self.folder / f'console-{self.boots}.log') as guest:
				try:
					console = guest.wait_until_ready()
				except BootFailed as err:
					if last_try:
						raise
					terminal.warn(f'boot {self.boots} failed, trying once more: {str(err).splitlines()[0]}')
					continue
				self._booted(guest, console, time.monotonic() - start)
				yield guest
				return

	def _booted(self, guest: Guest, console: list[str], spent: float) -> None:
		self.boot_seconds += spent
		self.release = guest.hello.split(' ', 1)[0]
		self._check_modules(guest, console)
		self.attempts.append(Attempt('kernel', 'kernel.boot', self.boots, console=console, how='exit',
					     output=['ok 1 boot'], notes=[guest.hello], seconds=spent))

	def _check_modules(self, guest: Guest, console: list[str]) -> None:
		state = guest.hello.partition('modules=')[2]
		if state not in ('loaded', 'builtin'):
			raise DevexclError(f'The module could not be loaded: {state}\n'
					   + '\n'.join('    ' + line for line in console[-10:]))

	def _write_down(self, count: int) -> None:
		"""Makes the first attempts final: their part of the console is complete."""
		for attempt in self.attempts[self._written:count]:
			self._record.write(json.dumps(dataclasses.asdict(attempt)) + '\n')
		self._record.flush()
		self._written = count

	# -- what there is to run

	def _plan(self, guest: Guest) -> list[Job]:
		jobs: list[Job] = []
		for program in self.image.programs:
			listing = self._execute(guest, Attempt(program, f'{program}.list', self.boots), (f'./{program}', '-l'),
						LIST_SECONDS)
			if listing.lost:
				raise DevexclError(f'The guest did not survive "{program} -l":\n'
						   + '\n'.join(devexcl_splat.excerpt(listing.console)))
			good = listing.how == 'exit' and listing.code in (0, 4)
			cells = devexcl_batch.parse_list(listing.output) if good else None
			names = devexcl_ktap.parse_list(listing.output) if good else None
			if cells is not None:
				self.excluded[program] = devexcl_batch.parse_excluded(listing.output)
				jobs += [Job(program, full_name(program, name), (f'./{program}', '-r', name), cell=True)
					 for name in cells]
			elif names is not None:
				jobs += [Job(program, full_name(program, name), (f'./{program}', '-r', name)) for name in names]
			else:
				jobs.append(Job(program, '', (f'./{program}',)))
		last = [job for job in LAST_JOBS if job.command != ('@kmemleak',) or self.image.manifest['debug']]
		return jobs + (last if self.image.modules else [])

	def _select(self, jobs: list[Job]) -> list[Job]:
		"""What is asked for; who is asked for a part only has excluded nothing."""
		selected = select(jobs, self.patterns)
		for program in {job.program for job in jobs if job not in set(selected)}:
			self.excluded.pop(program, None)
		return selected

	# -- one program

	def _run(self, guest: Guest, job: Job) -> Attempt:
		self._begun(job.name)
		limit = self._limit(job.program, self.limits.test) if job.test else self.limits.program
		attempt = self._execute(guest, Attempt(job.program, job.test, self.boots), job.command, limit,
					previous=self.attempts[-1])
		self._keep([attempt])
		self.spent[job.program] += attempt.seconds
		return attempt

	def _run_batch(self, guest: Guest, jobs: list[Job]) -> list[Attempt]:
		"""Many cells in one go; the attempts of those that are done with."""
		program, names = jobs[0].program, [job.test for job in jobs]
		command = [jobs[0].command[0]] + [word for job in jobs for word in job.command[1:]]
		limit = self._limit(program, self.limits.of_batch(len(jobs)))
		whole = Attempt(program, '', self.boots)
		try:
			self._execute(guest, whole, command, limit, previous=self.attempts[-1])
		except KeyboardInterrupt:
			self._keep(devexcl_batch.Batch(whole, names).told())
			raise
		attempts = devexcl_batch.Batch(whole, names).settle()
		self._keep(attempts)
		self.spent[program] += whole.seconds
		self.excluded.get(program, {}).update(devexcl_batch.parse_excluded(whole.output))
		return attempts

	def _limit(self, program: str, limit: float) -> float:
		"""A test's limit, or what is left of its program's."""
		return max(min(limit, self.limits.program - self.spent[program]), 1.0)

	def _keep(self, attempts: list[Attempt]) -> None:
		"""What comes now on the console is no longer about those before."""
		self._write_down(len(self.attempts))
		self.attempts += attempts

	def _execute(self, guest: Guest, attempt: Attempt, command: Sequence[str], limit: float,
		     previous: Optional[Attempt] = None) -> Attempt:
		"""Has the guest run a program, and listens until both its ends are told of.

		The channel tells the end, the console the marker after it: they are two
		lines, and either may be the slower one.
		"""
		self._next_id += 1
		number = str(self._next_id)
		guest.send('run', number, str(int(limit * 1000)), attempt.name, *command)
		start = time.monotonic()
		deadline = start + limit + GRACE_SECONDS
		part = ''
		begun = ended = marked = False
		while not (ended and marked):
			event = guest.next_event(max(0.0, deadline - time.monotonic()))
			if event.kind == 'console':
				marker = devexcl_splat.MARKER.search(event.text)
				ours = marker and marker.group(2) == number
				begun = begun or bool(ours and marker.group(1) == 'begin')
				marked = marked or bool(ours and marker.group(1) == 'end')
				cell = devexcl_splat.CELL.search(event.text)
				if cell and not attempt.test:
					self._begun(cell.group(1))
				(attempt if begun or not previous else previous).console.append(event.text)
			elif event.kind == 'channel':
				word, ident, text = (event.text.split(' ', 2) + ['', ''])[:3]
				text = unescape(text)
				if ident != number:
					continue
				if word == 'part':
					part += text
				elif word == 'out':
					attempt.output.append(part + text)
					part = ''
				elif word == 'note':
					attempt.notes.append(text)
				elif word == 'fault':
					attempt.faults.append(text)
				elif word == 'end':
					how, code, milliseconds = text.split()
					attempt.how, attempt.code = how, int(code)
					attempt.seconds = int(milliseconds) / 1000
					ended = True
					deadline = time.monotonic() + GRACE_SECONDS
			elif ended:
				break		# the verdict is here; the console has been cut off
			else:
				self._lost(guest, attempt, event, time.monotonic() - start)
				break
		if part:
			attempt.output.append(part)
		self._guest_lost = attempt.lost
		return attempt

	def _lost(self, guest: Guest, attempt: Attempt, event: Event, spent: float) -> None:
		attempt.how = HANG if event.kind == 'silence' else CRASH
		attempt.seconds = spent
		if event.text:
			attempt.notes.append(f'QEMU said: {event.text}')
		if attempt.how == CRASH and not devexcl_splat.panicked(attempt.console):
			attempt.notes.append('the guest ended without a panic')
		guest.kill()
