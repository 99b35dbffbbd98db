# SPDX-License-Identifier: GPL-2.0
"""The matrix as a whole: operations down, kinds of memory across, kernels side by side.

It is put together from the results of one or more runs. A program of the
matrix names its cells <subject>.<operation>.<backing>[.<hold>]; the holds of a
cell are shown as one, the worst of them.
"""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator, Optional

from devexcl_host import DevexclError
from devexcl_judge import BAD, CRASH, FAIL, FIXED, HANG, KNOWN, PASS, SKIP, Result
from devexcl_report import RESULTS_JSON

# The worse, the earlier.
WORST_FIRST = (CRASH, HANG, FAIL, FIXED, KNOWN, SKIP, PASS)
EXCLUDED, MISSING = 'excluded', 'missing'
LETTERS = {PASS: '.', FAIL: 'F', CRASH: 'C', HANG: 'H', FIXED: '!', KNOWN: 'k', SKIP: 's', EXCLUDED: '-', MISSING: ' '}
HOLDS = ('all', 'half', 'neighbours')


@dataclass
class Run:
	"""The results of one run."""

	facts: dict
	results: list[Result]
	folder: str = ''

	@property
	def label(self) -> str:
		"""Short, to head a column: the kernel, and what is unusual about it."""
		version = '.'.join(self.facts['release'].split('-')[0].split('.')[:2])
		marks = [short for word, short in (('built in', 'built in'), ('debug', 'debug'))
			 if word in self.facts['variant'].split(', ')]
		return ' '.join([version, *marks])

	@property
	def title(self) -> str:
		return f'Linux {self.facts["release"]} ({self.facts["variant"]}, {self.facts["accelerator"]})'


@dataclass
class Place:
	"""An operation on a backing: on each kernel, what came out for each hold."""

	name: str
	results: list[dict[str, Result]]	# of each run
	why_not: str = ''			# makes no sense

	def verdict(self, run: int) -> str:
		"""All holds as one."""
		verdicts = {result.verdict for result in self.results[run].values()}
		if not verdicts:
			return EXCLUDED if self.why_not else MISSING
		return next(verdict for verdict in WORST_FIRST if verdict in verdicts)

	def text(self, run: int) -> str:
		"""The same in words."""
		holds = self.results[run]
		if not holds:
			return f'excluded: {self.why_not}' if self.why_not else 'not run'
		by_verdict: dict[str, list[str]] = {}
		for hold, result in holds.items():
			by_verdict.setdefault(result.verdict, []).append(hold)
		if len(by_verdict) == 1:
			return f'{next(iter(by_verdict))} ({", ".join(holds)})'
		return ', '.join(f'{" and ".join(holds)} {verdict}' for verdict, holds in by_verdict.items())


@dataclass
class Matrix:
	"""Everything that there is to show."""

	runs: list[Run]
	backings: list[str] = field(default_factory=list)
	# subject -> operation -> backing
	subjects: dict[str, dict[str, dict[str, Place]]] = field(default_factory=dict)
	# program -> test -> the result on each run, if there is one
	others: dict[str, dict[str, list[Optional[Result]]]] = field(default_factory=dict)

	def places(self) -> Iterator[Place]:
		for operations in self.subjects.values():
			for backings in operations.values():
				yield from backings.values()


def split_name(name: str) -> Optional[tuple[str, str, str, str]]:
	"""(subject, operation, backing, hold) of a cell."""
	parts = name.split('.')
	if len(parts) == 3:
		parts.append(HOLDS[0])
	return tuple(parts) if len(parts) == 4 and parts[3] in HOLDS else None


def put_together(runs: list[Run]) -> Matrix:
	matrix = Matrix(runs)
	programs = {program for run in runs for program in run.facts.get('layouts', {})}
	wanted = {split_name(result.name)[:2] for run in runs for result in run.results
		  if result.program in programs and split_name(result.name)}
	for run in runs:
		for layout in run.facts.get('layouts', {}).values():
			for name, why in layout:
				_add_place(matrix, name, why, wanted)
	for number, run in enumerate(runs):
		for result in run.results:
			cell = split_name(result.name) if result.program in programs else None
			place = cell and matrix.subjects.get(cell[0], {}).get(cell[1], {}).get(cell[2])
			if place:
				place.results[number][cell[3]] = result
			else:
				row = matrix.others.setdefault(result.program, {}).setdefault(result.name, [None] * len(runs))
				row[number] = result
	return matrix


def _add_place(matrix: Matrix, name: str, why: str, wanted: set) -> None:
	"""Makes room for a cell, if its row was run at all."""
	cell = split_name(name)
	if not cell or cell[:2] not in wanted:
		return
	subject, operation, backing, _ = cell
	if backing not in matrix.backings:
		matrix.backings.append(backing)
	place = matrix.subjects.setdefault(subject, {}).setdefault(operation, {}).setdefault(
		backing, Place(f'{subject}.{operation}.{backing}', [{} for _ in matrix.runs]))
	place.why_not = why


# ---- results of earlier runs -----------------------------------------------------


def find_runs(paths: Iterable[str]) -> list[Run]:
	"""The runs in some folders of results: one each, or several where it is one of all checks."""
	runs = []
	for path in map(Path, paths):
		found = [path] if path.is_file() else sorted(path.glob(RESULTS_JSON)) or sorted(path.glob(f'*/{RESULTS_JSON}'))
		if not found:
			raise DevexclError(f'{path} holds no results: there is no {RESULTS_JSON} in it')
		runs += [read_run(name) for name in found]
	return in_order(runs)


def read_run(path: Path) -> Run:
	try:
		facts = json.loads(path.read_text(encoding='utf-8'))
		return Run(facts, [Result(**test) for test in facts.pop('tests')], str(path.parent))
	except (ValueError, KeyError, TypeError) as err:
		raise DevexclError(f'{path} is not what this version writes: {err}') from err


def in_order(runs: list[Run]) -> list[Run]:
	"""Older kernels first."""
	def key(run: Run) -> tuple:
		release = run.facts['release'].split('-')[0]
		return [int(part) for part in release.split('.') if part.isdigit()], run.facts['variant']
	return sorted(runs, key=key)


# ---- counting ------------------------------------------------------------------------


def tally(places: Iterable[Place], runs: Iterable[int]) -> collections.Counter:
	"""How many cells came out how, each hold counted for itself."""
	runs = list(runs)
	return collections.Counter(result.verdict for place in places for run in runs
				   for result in place.results[run].values())


def exclusions(matrix: Matrix) -> dict[str, int]:
	"""Why places make no sense, and how many."""
	return collections.Counter(place.why_not for place in matrix.places() if place.why_not)


# ---- as text ---------------------------------------------------------------------------


def as_text(matrix: Matrix, run: int, width: int, short: bool = False) -> list[str]:
	"""One kernel's matrix, one letter a cell. The short form leaves out the rows in which nothing is wrong."""
	lines: list[str] = []
	quiet: list[str] = []
	for subject, operations in matrix.subjects.items():
		rows = {name: places for name, places in operations.items() if not short or _worth_showing(places, run)}
		if len(rows) < len(operations):
			quiet.append(_quiet_line(subject, operations, rows, run))
		if rows:
			lines += _table(matrix, subject, rows, run, width)
	if lines:
		lines = _heading(matrix, width) + lines + ['. pass  F fail  C crash  H hang  ! fixed  k known  s skip  - makes no sense, blank: not run']
	return lines + quiet


def _worth_showing(places: dict[str, Place], run: int) -> bool:
	return any(place.verdict(run) in (*BAD, KNOWN) for place in places.values())


def _quiet_line(subject: str, operations: dict, rows: dict, run: int) -> str:
	quiet = [place for name, places in operations.items() if name not in rows for place in places.values()]
	counts = tally(quiet, [run])
	number = len(operations) - len(rows)
	return (f'{subject}: {number} {"other " if rows else ""}operation{"s" * (number != 1)}: '
		+ ', '.join(f'{counts[verdict]} {verdict}' for verdict in (PASS, SKIP) if counts[verdict] or verdict == PASS))


def _spacing(matrix: Matrix, width: int) -> tuple[int, int]:
	"""(columns for the name of an operation, columns for a cell); the former shrinks, and the latter."""
	longest = max((len(name) for operations in matrix.subjects.values() for name in operations), default=0) + 2
	for step in (2, 1):
		room = width - step * len(matrix.backings)
		if room >= longest:
			return longest, step
	return max(8, width - len(matrix.backings)), 1


def _heading(matrix: Matrix, width: int) -> list[str]:
	"""The names of the backings, standing on their ends."""
	name, step = _spacing(matrix, width)
	height = max((len(backing) for backing in matrix.backings), default=0)
	columns = [backing.rjust(height) for backing in matrix.backings]
	return [' ' * name + ''.join(column[row].ljust(step) for column in columns).rstrip() for row in range(height)]


def _table(matrix: Matrix, subject: str, rows: dict[str, dict[str, Place]], run: int, width: int) -> list[str]:
	name, step = _spacing(matrix, width)
	lines = [subject]
	for operation, places in rows.items():
		letters = [LETTERS[places[backing].verdict(run)] if backing in places else ' ' for backing in matrix.backings]
		label = f' {operation}' if len(operation) + 2 <= name else f' {operation[:name - 3]}~'
		lines.append((label.ljust(name) + ''.join(letter.ljust(step) for letter in letters)).rstrip())
	return lines


def all_as_text(matrix: Matrix, width: int) -> list[str]:
	"""All kernels, one after the other."""
	lines: list[str] = []
	for number, run in enumerate(matrix.runs):
		lines += [*([''] if number else []), run.title, *as_text(matrix, number, width)]
	return lines
