# SPDX-License-Identifier: GPL-2.0
"""Batches: many short tests in one run of their program, and who is charged with what.

A program with hundreds of tests of a few milliseconds each, called cells, lists
them under a line "# TESTS" and takes "-r <name>" many times. So does one whose
list of tests has a line "# MANY AT ONCE" before it. Before a cell it
writes "#  RUN           <name> ..." to its output, and "devexcl-test: cell <name>"
into the kernel log. So both can be taken apart again, and each cell becomes an
attempt of its own: whoever judges them need not know that there was a batch.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Iterable, Optional

import devexcl_ktap
import devexcl_splat
from devexcl_attempt import Attempt

HEADER = '# TESTS'
# The columns of its table are not kinds of memory: it is no part of the picture.
OWN_TABLE = '# not of the matrix'
MANY = '# MANY AT ONCE'
# What a program says of each run that it makes of its harness: nothing about a test.
CHATTER = re.compile(r'K?TAP version|1\.\.1$|#\s*(Starting|PASSED:|FAILED:|Totals:)')
# A kind of memory with which an operation makes no sense, however it is held.
WITHOUT = re.compile(r'#\s*without (\S+): (.+)')
# It ended before its time, so that the next one finds a kernel that is in order.
STOPPED = re.compile(r'#\s*stopped: ')
EXCLUDED = re.compile(r'#\s*excluded: (\d+) cells?: (.+)')


def parse_list(lines: Iterable[str]) -> Optional[list[str]]:
	"""The cells that "-l" lists; None if it is another kind of list."""
	lines = [line.strip() for line in lines]
	if HEADER not in lines:
		return None
	return [line for line in lines[lines.index(HEADER):] if line and not line.startswith('#')]


def takes_many(lines: Iterable[str]) -> bool:
	return MANY in (line.strip() for line in lines)


def parse_layout(lines: Iterable[str]) -> list[list[str]]:
	"""All cells there could be, in their order: [name, why it makes no sense, or '']."""
	lines = [line.strip() for line in lines]
	layout: list[list[str]] = []
	if OWN_TABLE in lines:
		return layout
	for line in lines[lines.index(HEADER) + 1:]:
		without = WITHOUT.match(line)
		if without:
			layout.append([without.group(1), without.group(2)])
		elif line and not line.startswith('#'):
			layout.append([line, ''])
	return layout


def parse_excluded(lines: Iterable[str]) -> dict[str, int]:
	"""Why cells were left out, and how many: those that make no sense, as the program says itself."""
	matches = (EXCLUDED.match(line) for line in lines)
	return {match.group(2).strip(): int(match.group(1)) for match in matches if match}


class Batch:
	"""A run of several cells, taken apart."""

	def __init__(self, whole: Attempt, names: list[str]) -> None:
		self.whole = whole
		self.names = names
		self._startup, self._consoles = _take_apart(whole.console, devexcl_splat.CELL)
		output = [line for line in whole.output if not CHATTER.match(line)]
		self._preamble, self._outputs = _take_apart(output, devexcl_ktap.RUN)
		# After a crash it is the output that lacks its end, the console has it.
		self._begun = [name for name in {**self._outputs, **self._consoles} if name in names]
		self._trailer = self._cut_trailer()
		self._starts = {cell: devexcl_splat.stamp(lines[0]) for cell, lines in self._consoles.items()}
		self._splatted = next((name for name in self._begun if devexcl_splat.splats(self._console(name))), None)
		self._results = {name: devexcl_ktap.parse(self._outputs.get(name, [])).results for name in self._begun}

	def settle(self) -> list[Attempt]:
		"""An attempt for each cell that is done with. The others are to be run again.

		What a cell has told stands, unless the kernel complained earlier: from
		then on nothing counts but that. Who was running when the program or the
		guest ended is charged with it.
		"""
		if not self._begun:
			# A guest that is lost without a word is lost by one cell, as far as we know.
			return [dataclasses.replace(self.whole, test=name)
				for name in (self.names[:1] if self.whole.lost else self.names)]
		splatted = self._splatted
		if splatted is None:
			charged = self._charged()
			return [*(self._attempt(name) for name in self._told() if name != charged), self._ending(charged)]
		done = [self._attempt(name) for name in self._told() if name != splatted]
		# The end of the program is a matter of later cells, if there are any.
		own_end = splatted == self._begun[-1] or not self._results[splatted]
		return [*done, self._ending(splatted) if own_end else self._attempt(splatted)]

	def told(self) -> list[Attempt]:
		"""What can be kept of a batch that was interrupted."""
		return [self._attempt(name) for name in self._told()]

	def _told(self) -> list[str]:
		"""Cells with a result that stands, in the order in which they were run."""
		reliable = self._begun[:self._begun.index(self._splatted) + 1] if self._splatted else self._begun
		return [name for name in reliable if self._results[name]]

	def _charged(self) -> str:
		"""The cell that has to answer for how it all ended."""
		last = self._begun[-1]
		stopped = any(STOPPED.match(line) for line in self.whole.output)
		if self.whole.lost or stopped or not self._results[last]:
			return last
		# The program is gone, and did not come to the next one.
		return next((name for name in self.names if name not in self._begun), last)

	def _attempt(self, name: str) -> Attempt:
		"""A cell that has told its result."""
		return dataclasses.replace(
			self.whole, test=name, output=self._outputs.get(name, []), console=self._console(name), how='exit', code=0,
			notes=[], faults=[], seconds=self._seconds(name))

	def _ending(self, name: str) -> Attempt:
		"""The cell with which it ended; everything that does not belong to another one is its own."""
		whole = self.whole
		failed = any(result.verdict == devexcl_ktap.FAIL for results in self._results.values() for result in results)
		told = bool(self._results.get(name))
		notes = list(whole.notes)
		if whole.faults and len(self._begun) > 1:
			notes.append(f'found after {len(self._begun)} cells in one run of the program; this was the last one')
		return dataclasses.replace(
			self._attempt(name), output=self._outputs.get(name, []) + ([] if told else self._trailer),
			how=whole.how, code=0 if whole.how == 'exit' and failed and told else whole.code,
			notes=notes, faults=whole.faults)

	def _console(self, name: str) -> list[str]:
		return (self._startup if name == self._begun[0] else []) + self._consoles.get(name, [])

	def _cut_trailer(self) -> list[str]:
		"""Takes what came after the last result off the last cell: sums, or an error message."""
		output = next(reversed(self._outputs.values()), [])
		results = [at for at, line in enumerate(output) if devexcl_ktap.RESULT.match(line)]
		if not results:
			return []
		trailer = [line for line in output[results[-1] + 1:] if not EXCLUDED.match(line)]
		del output[results[-1] + 1:]
		return trailer

	def _seconds(self, name: str) -> float:
		"""By the time stamps of the kernel log."""
		begin, start = devexcl_splat.stamp(self.whole.console[0]) if self.whole.console else None, self._starts.get(name)
		if begin is None or start is None:
			return 0.0
		later = [value for value in self._starts.values() if value is not None and value > start]
		return round(max(0.0, min(later, default=begin + self.whole.seconds) - start), 6)


def _take_apart(lines: Iterable[str], marker: re.Pattern) -> tuple[list[str], dict[str, list[str]]]:
	"""What came before the first marker, and what came from each one on."""
	before: list[str] = []
	parts: dict[str, list[str]] = {}
	current = before
	for line in lines:
		match = marker.search(line)
		if match:
			current = parts.setdefault(match.group(1), [])
		current.append(line)
	return before, parts
