# SPDX-License-Identifier: GPL-2.0
"""What happened: one attempt for each time that a test was run.

Collecting writes attempts down, judging reads them. Neither needs the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable

from devexcl_host import DevexclError

RECORD = 'record.jsonl'

# The outcome of an attempt that the guest did not live to tell.
CRASH, HANG = 'crash', 'hang'


@dataclass
class Attempt:
	"""One program run once, and all that is known about it."""

	program: str
	test: str			# its full name; '' when the program is run as a whole
	boot: int
	output: list[str] = field(default_factory=list)
	notes: list[str] = field(default_factory=list)
	faults: list[str] = field(default_factory=list)
	console: list[str] = field(default_factory=list)
	how: str = ''			# exit, signal, timeout, stuck; crash, hang
	code: int = 0
	seconds: float = 0.0
	place: int = 0			# of the test, in the order of the reports

	@property
	def name(self) -> str:
		return self.test or self.program

	@property
	def lost(self) -> bool:
		"""The guest is not to be used any more."""
		return self.how in (CRASH, HANG, 'stuck')


def full_name(program: str, name: str) -> str:
	"""A test's name anywhere: it begins with its program."""
	return name if name.startswith(program + '.') else f'{program}.{name}'


def read_record(folder: Path) -> list[Attempt]:
	"""What a run has written down; a line cut short by an interrupt is left out."""
	path = folder / RECORD
	if not path.is_file():
		raise DevexclError(f'{folder} holds no results: there is no {RECORD} in it')
	attempts = []
	for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
		try:
			attempts.append(Attempt(**json.loads(line)))
		except (ValueError, TypeError):
			continue
	return in_order(attempts)


def in_order(attempts: Iterable[Attempt]) -> list[Attempt]:
	"""The same whichever guest was the quicker one."""
	return sorted(attempts, key=lambda attempt: (attempt.place, attempt.boot))
