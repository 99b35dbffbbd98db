# SPDX-License-Identifier: GPL-2.0
"""Collecting: runs the tests in guests, and writes down what happened.

Nothing is judged here. The outcome is a list of attempts, one for each time
that a test was run, kept in record.jsonl: from it the verdicts can be made, and
made again.

Several guests work side by side, each with a thread of ours. They share one
queue of jobs, and nothing else.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

import devexcl_batch
import devexcl_ktap
import devexcl_plan
import devexcl_splat
from devexcl_attempt import CRASH, HANG, RECORD, Attempt, full_name, in_order
from devexcl_build import Image
from devexcl_host import DevexclError, terminal
from devexcl_plan import LAST_JOBS, Job, Limits, Queue, select
from devexcl_qemu import CPUS, BootFailed, Event, Guest, unescape

LIST_SECONDS = 30
# Past its limit the guest itself ends a test, and may take that long for it.
GRACE_SECONDS = 30
# For fewer jobs a second guest is not worth its boot.
WORTH_A_BOOT = 150


class Collector:
	"""Has all jobs run, by one or more workers."""

	def __init__(self, image: Image, accelerator: tuple[str, str], folder: Path, *, limits: Limits,
		     patterns: list[str], cmdline: tuple[str, ...] = (), subset: bool = False, guests: int = 1,
		     progress: Callable[['Collector', str], None] = lambda collector, name: None,
		     finished: Callable[[Attempt], None] = lambda attempt: None,
		     expected: Callable[[str, str], bool] = lambda name, release: False) -> None:
		self.image = image
		self.accelerator = accelerator
		self.folder = folder
		self.limits = limits
		self.patterns = patterns
		self.cmdline = cmdline
		self.subset = subset
		self.progress = progress
		self.finished = finished
		self.expected = expected
		self.attempts: list[Attempt] = []
		self.total = 0
		self.done = 0
		self.boots = 0
		self.complete = False		# has every test there is been run?
		self.excluded: dict[str, dict[str, int]] = {}
		self.layouts: dict[str, list[list[str]]] = {}	# of the matrix: devexcl_batch.parse_layout()
		self.release = ''
		self.cpu_seconds = 0.0		# of all guests
		self.spent: dict[str, float] = collections.defaultdict(float)
		self.stopping = False
		self.lock = threading.RLock()
		self.workers = [Worker(self, first=number == 0) for number in range(guests)]
		self.queue = Queue([])
		self.last_jobs: list[Job] = []
		self.last_jobs_taken = False
		self._planned = threading.Event()
		self._record = None
		self._error: Optional[BaseException] = None

	@property
	def position(self) -> int:
		"""How many jobs are done, or being done."""
		return min(self.total, self.done + sum(worker.begun for worker in self.workers))

	@property
	def boot_seconds(self) -> float:
		return sum(worker.boot_seconds for worker in self.workers) / len(self.workers)

	# -- the list of tests, without running any

	def list_jobs(self) -> list[Job]:
		return self.workers[0].list_jobs()

	# -- all of it

	def run(self) -> list[Attempt]:
		threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self.workers]
		with (self.folder / RECORD).open('w', encoding='utf-8') as self._record:
			try:
				for thread in threads:
					thread.start()
				for thread in threads:
					thread.join()
			except KeyboardInterrupt:
				self.stop()
				for thread in threads:
					thread.join()
				raise
			finally:
				for worker in self.workers:
					worker.write_down()
				self.attempts = in_order(attempt for worker in self.workers for attempt in worker.attempts)
		if self._error:
			raise self._error
		self.complete = not self.patterns and not self.subset
		return self.attempts

	def _work(self, worker: 'Worker') -> None:
		"""What one thread does. Whatever goes wrong there ends the others as well."""
		try:
			worker.work()
		except BaseException as err:	# pylint: disable=broad-except
			with self.lock:
				self._error = self._error or err
			self.stop()

	def stop(self) -> None:
		self.stopping = True
		self._planned.set()
		for worker in self.workers:
			worker.stop()

	# -- what workers ask and tell

	def plan(self, jobs: list[Job]) -> None:
		"""From now on there is something to do."""
		selected = select(jobs, self.patterns)
		if self.subset:
			selected = devexcl_plan.subset(selected)
		for program in {job.program for job in set(jobs) - set(selected)}:
			self.excluded.pop(program, None)	# who asks for a part has excluded nothing
		with self.lock:
			self.queue = Queue([job for job in selected if job not in LAST_JOBS], len(self.workers))
			self.last_jobs = [dataclasses.replace(job, place=len(selected)) for job in selected if job in LAST_JOBS]
			self.total = len(selected)
		self._planned.set()

	def wait_for_plan(self) -> None:
		self._planned.wait()
		if self.stopping:
			raise KeyboardInterrupt

	def next_boot(self) -> int:
		with self.lock:
			self.boots += 1
			return self.boots

	def write(self, attempts: Sequence[Attempt]) -> None:
		with self.lock:
			for attempt in attempts:
				self._record.write(json.dumps(dataclasses.asdict(attempt)) + '\n')
			self._record.flush()

	def add_cpu_seconds(self, spent: float) -> None:
		with self.lock:
			self.cpu_seconds += spent

	def tell_progress(self) -> None:
		with self.lock:
			self.progress(self, ' + '.join(worker.running for worker in self.workers if worker.running))

	def tell_finished(self, attempt: Attempt) -> None:
		with self.lock:
			self.finished(attempt)

	def is_expected(self, job: Job) -> bool:
		return self.expected(job.name, self.release)


class Worker:
	"""Runs jobs in one guest after the other until there are no more."""

	def __init__(self, collector: Collector, first: bool) -> None:
		self.collector = collector
		self.first = first
		self.attempts: list[Attempt] = []
		self.boot_seconds = 0.0
		self.begun = 0			# of the jobs at hand
		self.running = ''
		self._own: collections.deque[Job] = collections.deque()	# jobs that nobody else may take
		self._finishing = False
		self._crashed: set[Job] = set()
		self._boot_number = 0
		self._guest: Optional[Guest] = None
		self._guest_lost = False
		self._next_id = 0
		self._written = 0

	def list_jobs(self) -> list[Job]:
		with self._boot() as guest:
			jobs = self._find_jobs(guest)
			guest.power_off()
			return jobs

	def work(self) -> None:
		collector = self.collector
		if not self.first and collector.patterns:
			collector.wait_for_plan()
			if len(collector.queue) < WORTH_A_BOOT:
				return
		while True:
			with self._boot() as guest:
				if self.first and not collector.total:
					collector.plan(self._find_jobs(guest))
				collector.wait_for_plan()
				self._serve(guest)
			if not (self._own or len(collector.queue) and not self._finishing
				or collector.last_jobs and not collector.last_jobs_taken):
				break

	def stop(self) -> None:
		"""Called by other threads."""
		guest = self._guest
		if guest:
			guest.kill()

	def _serve(self, guest: Guest) -> None:
		"""Runs jobs until there are no more, or the guest is lost for further ones."""
		while True:
			jobs = self._take()
			if not jobs:
				break
			self.begun = 0
			attempts = self._run_batch(guest, jobs) if len(jobs) > 1 else [self._run(guest, jobs[0])]
			self._account(jobs, attempts)
			if self._guest_lost:
				return
			if any(devexcl_splat.splats(attempt.console) for attempt in attempts):
				break
		self.attempts[-1].console += guest.power_off()

	def _take(self) -> list[Job]:
		"""The next jobs: our own first, and at the end those with which each guest ends."""
		collector = self.collector
		if not self._own and not self._finishing:
			jobs = collector.queue.take()
			if jobs:
				return jobs
			self._finishing = True
			idle = collector.last_jobs_taken and not any(attempt.place for attempt in self.attempts)
			if not idle:
				collector.last_jobs_taken = True
				self._own.extend(collector.last_jobs)
		return [self._own.popleft()] if self._own else []

	def _account(self, jobs: list[Job], attempts: list[Attempt]) -> None:
		"""Takes note of what is done with; the rest goes back."""
		by_name = {job.name: job for job in jobs}
		for attempt in attempts:
			job = by_name.pop(attempt.name)
			again = attempt.how == CRASH and job not in self._crashed and not self.collector.is_expected(job)
			if again:
				self._crashed.add(job)
				self._own.appendleft(job)	# once more, alone, in the next guest
			with self.collector.lock:
				self.collector.done += not again
			self.collector.tell_finished(attempt)
		self.begun = 0
		self.collector.queue.put_back(by_name.values())

	def _tell(self, name: str) -> None:
		self.begun += 1
		self.running = name
		self.collector.tell_progress()

	# -- guests

	@contextlib.contextmanager
	def _boot(self) -> Iterator[Guest]:
		"""A guest that is ready; a second try if the first one fails."""
		collector = self.collector
		for last_try in (False, True):
			self._boot_number = collector.next_boot()
			start = time.monotonic()
			with Guest(collector.image, accelerator=collector.accelerator, cmdline=collector.cmdline,
				   console_log=collector.folder / f'console-{self._boot_number}.log') as self._guest:
				try:
					if collector.stopping:
						raise KeyboardInterrupt
					console = self._guest.wait_until_ready()
				except BootFailed as err:
					if collector.stopping:
						raise KeyboardInterrupt from err
					if last_try:
						raise
					terminal.warn(f'boot {self._boot_number} failed, trying once more: '
						      f'{str(err).splitlines()[0]}')
					continue
				if f' cpus={CPUS} ' not in self._guest.hello and not last_try:
					terminal.warn(f'boot {self._boot_number} came up without all CPUs, trying once more')
					continue
				self._booted(self._guest, console, time.monotonic() - start)
				try:
					yield self._guest
				finally:
					self.running = ''
			collector.add_cpu_seconds(self._guest.cpu_seconds)
			return

	def _booted(self, guest: Guest, console: list[str], spent: float) -> None:
		self.boot_seconds += spent
		self.collector.release = guest.hello.split(' ', 1)[0]
		state = guest.hello.partition('modules=')[2]
		if state not in ('loaded', 'builtin'):
			raise DevexclError(f'The module could not be loaded: {state}\n'
					   + '\n'.join('    ' + line for line in console[-10:]))
		self.attempts.append(Attempt('kernel', 'kernel.boot', self._boot_number, console=console, how='exit',
					     output=['ok 1 boot'], notes=[guest.hello], seconds=spent))

	# -- what there is to run

	def _find_jobs(self, guest: Guest) -> list[Job]:
		jobs: list[Job] = []
		for program in self.collector.image.programs:
			listing = self._execute(guest, Attempt(program, f'{program}.list', self._boot_number),
						(f'./{program}', '-l'), LIST_SECONDS)
			if listing.lost:
				raise DevexclError(f'The guest did not survive "{program} -l":\n'
						   + '\n'.join(devexcl_splat.excerpt(listing.console)))
			good = listing.how == 'exit' and listing.code in (0, 4)
			cells = devexcl_batch.parse_list(listing.output) if good else None
			names = devexcl_ktap.parse_list(listing.output) if good else None
			if cells is not None:
				self.collector.excluded[program] = devexcl_batch.parse_excluded(listing.output)
				self.collector.layouts[program] = devexcl_batch.parse_layout(listing.output)
				jobs += [Job(program, full_name(program, name), (f'./{program}', '-r', name), cell=True, batched=True)
					 for name in cells]
			elif names is not None:
				# What it calls its tests must be what we do.
				many = devexcl_batch.takes_many(listing.output)
				jobs += [Job(program, full_name(program, name), (f'./{program}', '-r', name),
					     batched=many and name == full_name(program, name)) for name in names]
			else:
				jobs.append(Job(program, '', (f'./{program}',)))
		image = self.collector.image
		last = [job for job in LAST_JOBS if job.command != ('@kmemleak',) or image.manifest['debug']]
		return jobs + (last if image.modules else [])

	# -- one program

	def _run(self, guest: Guest, job: Job) -> Attempt:
		self._tell(job.name)
		attempt = self._execute(guest, Attempt(job.program, job.test, self._boot_number, place=job.place), job.command,
					self._limit(job), previous=self.attempts[-1])
		self._keep([attempt])
		self.collector.spent[job.program] += attempt.seconds
		return attempt

	def _limit(self, job: Job) -> float:
		"""A test's limit, or what is left of its program's; the latter is not for cells, of which there are many."""
		limits = self.collector.limits
		if job.cell:
			return limits.cell
		return max(min(limits.test if job.test else limits.program, limits.program - self.collector.spent[job.program]), 1.0)

	def _run_batch(self, guest: Guest, jobs: list[Job]) -> list[Attempt]:
		"""Many cells in one go; the attempts of those that are done with."""
		program, names = jobs[0].program, [job.test for job in jobs]
		command = [jobs[0].command[0]] + [word for job in jobs for word in job.command[1:]]
		whole = Attempt(program, '', self._boot_number)
		places = {job.test: job.place for job in jobs}
		try:
			self._execute(guest, whole, command, self.collector.limits.cell, previous=self.attempts[-1], batch=True)
		except KeyboardInterrupt:
			self._keep(devexcl_batch.Batch(whole, names).told(), places)
			raise
		attempts = devexcl_batch.Batch(whole, names).settle()
		self._keep(attempts, places)
		return attempts

	def _keep(self, attempts: list[Attempt], places: Optional[dict[str, int]] = None) -> None:
		"""What comes now on the console is no longer about those before."""
		for attempt in attempts:
			attempt.place = places[attempt.test] if places else attempt.place
		self.write_down()
		self.attempts += attempts

	def write_down(self) -> None:
		"""Makes the attempts so far final: their part of the console is complete."""
		self.collector.write(self.attempts[self._written:])
		self._written = len(self.attempts)

	def _execute(self, guest: Guest, attempt: Attempt, command: Sequence[str], limit: float,
		     previous: Optional[Attempt] = None, batch: bool = False) -> Attempt:
		"""Has the guest run a program, and listens until both its ends are told of.

		The channel tells the end, the console the marker after it: they are two
		lines, and either may be the slower one. The limit of a batch is how long
		it may be silent.
		"""
		self._next_id += 1
		number = str(self._next_id)
		guest.send('batch' if batch else 'run', number, str(int(limit * 1000)), attempt.name, *command)
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
				if cell and batch:
					self._tell(cell.group(1))
					deadline = time.monotonic() + limit + GRACE_SECONDS
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
			elif self.collector.stopping:
				raise KeyboardInterrupt
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
