# SPDX-License-Identifier: GPL-2.0
"""The self-check: is each mistake that a driver can make noticed by a test?

The device can be told to make one on purpose: the modes DEVEXCL_BROKEN_* of its
ABI, which every test sets that finds the environment variable DEVEXCL_BROKEN. A
test notices a mode if it passes without it and fails with it. A mode that no
test notices, and one that does harm to the kernel, fail the check.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import devexcl_ktap
import devexcl_splat
from devexcl_attempt import RECORD, Attempt, full_name
from devexcl_collect import Collector, Worker
from devexcl_host import REPO, DevexclError, seconds, write_atomically
from devexcl_plan import Job, select
from devexcl_qemu import Guest

HEADER = REPO / 'include/uapi/linux/test_devexcl_uapi.h'
FOUND_JSON = 'selfcheck.json'
VARIABLE = 'DEVEXCL_BROKEN'

# What is run with each mode: quick tests that look at the rules that the modes break.
TESTS = ('driver', 'fault', 'contend.two_devices.take*', 'order.dontneed.*', 'order.cpu_write.*', 'refuse.read_only.*',
	 'unmap.*.base')

# A test that waits for what a broken driver does not do has noticed.
SILENCE_SECONDS = 10
EXAMPLES = 3


@dataclass(frozen=True)
class Mode:
	"""A mistake, as the ABI describes it."""

	name: str
	value: int
	text: str


def read_modes(header: str) -> list[Mode]:
	"""All modes of the ABI, in their order."""
	found = re.findall(r'/\*((?:(?!\*/).)*?)\*/\s*#define DEVEXCL_BROKEN_(\w+)\s+\(1U << (\d+)\)', header, re.DOTALL)
	if not found:
		raise DevexclError(f'{HEADER.name} has no DEVEXCL_BROKEN_* modes')
	# The first one is preceded by a comment on all of them.
	return [Mode(name, 1 << int(bit), ' '.join(re.sub(r'\s*\n\s*\*?\s*', ' ', text).split()))
		for text, name, bit in found]


@dataclass
class Outcome:
	"""What the tests said with one mode, or with none."""

	verdicts: dict[str, str] = field(default_factory=dict)
	complaints: list[str] = field(default_factory=list)	# of the kernel
	seconds: float = 0.0


@dataclass
class Finding:
	"""Who has noticed a mode."""

	mode: Mode
	noticed: list[str]
	complaints: list[str]
	seconds: float = 0.0

	@property
	def bad(self) -> bool:
		return not self.noticed or bool(self.complaints)

	def __str__(self) -> str:
		state = 'FAILED' if self.bad else 'ok'
		return f'{state:6}  {self.mode.name:18} {len(self.noticed):4} noticed  {seconds(self.seconds):>6}'


def findings(modes: list[Mode], plain: Outcome, outcomes: dict[Mode, Outcome]) -> list[Finding]:
	"""Only a test that passes without a mode can notice it."""
	good = [name for name, verdict in plain.verdicts.items() if verdict == devexcl_ktap.PASS]
	return [Finding(mode, [name for name in good if outcomes[mode].verdicts.get(name) == devexcl_ktap.FAIL],
			outcomes[mode].complaints, outcomes[mode].seconds)
		for mode in modes if mode in outcomes]


def verdicts_of(attempt: Attempt) -> dict[str, str]:
	"""What one run of a program says about its tests; the one that hangs or dies has failed."""
	tap = devexcl_ktap.parse(attempt.output)
	verdicts = {full_name(attempt.program, result.name): result.verdict for result in tap.results}
	if tap.running and attempt.how != 'exit':
		verdicts.setdefault(full_name(attempt.program, tap.running), devexcl_ktap.FAIL)
	return verdicts


def complaints_of(attempt: Attempt) -> list[str]:
	"""How the kernel has suffered."""
	complaints = [f'kernel log: {splat.headline}' for splat in devexcl_splat.splats(attempt.console)]
	complaints += attempt.faults
	if attempt.lost:
		complaints.append(f'the guest is lost: {attempt.how} in {attempt.program}')
	return complaints


class SelfCheck(Worker):
	"""Runs the same tests again and again, each time with another mode."""

	def __init__(self, collector: Collector, modes: list[Mode],
		     progress: Callable[[str], None] = lambda text: None) -> None:
		super().__init__(collector, first=True)
		self.modes = modes
		self.report = progress
		self.programs: dict[str, list[Job]] = {}
		self.plain = Outcome()
		self.outcomes: dict[Mode, Outcome] = {}

	def check(self) -> list[Finding]:
		"""All modes, in as many guests as it takes."""
		left = list(self.modes)
		plain = False
		while left or not plain:
			with self._boot() as guest:
				if not self.programs:
					self._plan(self._find_jobs(guest))
				if not plain:
					self.plain = self._try(guest, 'no mode', {})
					plain = True
				while left and not self._guest_lost:
					mode = left.pop(0)
					self.outcomes[mode] = self._try(guest, mode.name, {VARIABLE: hex(mode.value)})
				if not self._guest_lost:
					guest.power_off()
			self._guest_lost = False
		return findings(self.modes, self.plain, self.outcomes)

	def _plan(self, jobs: list[Job]) -> None:
		for job in select(jobs, self.collector.patterns or list(TESTS)):
			self.programs.setdefault(job.program, []).append(job)

	def _try(self, guest: Guest, name: str, environment: dict[str, str]) -> Outcome:
		outcome = Outcome()
		start = time.monotonic()
		for program, jobs in self.programs.items():
			self.report(f'{name}: {program}')
			command = [f'{key}={value}' for key, value in environment.items()] + [jobs[0].command[0]]
			command += [word for job in jobs for word in job.command[1:]]
			attempt = self._execute(guest, Attempt(program, '', self._boot_number), command, SILENCE_SECONDS, batch=True)
			self._note(dataclasses.replace(attempt, notes=[*attempt.notes, f'broken driver: {name}']))
			outcome.verdicts.update(verdicts_of(attempt))
			outcome.complaints += complaints_of(attempt)
			if attempt.lost:
				break
		outcome.seconds = time.monotonic() - start
		return outcome


	def _note(self, attempt: Attempt) -> None:
		with (self.collector.folder / RECORD).open('a', encoding='utf-8') as record:
			record.write(json.dumps(dataclasses.asdict(attempt)) + '\n')


def examples_of(finding: Finding) -> list[str]:
	"""A few tests that notice it, of as many programs as possible."""
	first = {name.split('.')[0]: name for name in reversed(finding.noticed)}
	others = [name for name in finding.noticed if name not in first.values()]
	return (sorted(first.values()) + others)[:EXAMPLES]


def how_to_repeat(finding: Finding, origin: str) -> str:
	"""The command that shows a mode to the tests that notice it."""
	words = ['tools/testing/devexcl/devexcl.py', 'run', *shlex.split(origin), '--append',
		 f'{VARIABLE}={finding.mode.value:#x}', '--tests', ' '.join(examples_of(finding) or TESTS)]
	return ' '.join(shlex.quote(word) for word in words)


def report(found: list[Finding], origin: str, plain: Outcome) -> list[str]:
	"""The table, and what to do about it."""
	lines = [f'{len(plain.verdicts)} tests, run without a mode and with each of {len(found)}']
	for finding in found:
		lines.append(str(finding))
		lines.append(f'        {finding.mode.text}')
		lines.append(f'        {", ".join(examples_of(finding)) or "No test notices that."}')
		lines += [f'        {complaint}' for complaint in finding.complaints]
		lines.append(f'        again: {how_to_repeat(finding, origin)}')
	return lines


def write_json(found: list[Finding], path: Path) -> None:
	write_atomically(path, json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
