# SPDX-License-Identifier: GPL-2.0
"""The table of the kernel's known bugs, known-bugs.txt: its rows, and which tests they speak of."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Optional

from devexcl_host import HERE, DevexclError
from devexcl_source import version_key

KNOWN_BUGS = HERE / 'known-bugs.txt'

# Before a glob: a race, which the tests lose only sometimes; and a failure that may take the guest with it.
SOMETIMES = '~'
DEADLY = '!'


@dataclass(frozen=True)
class KnownBug:
	"""One row of known-bugs.txt."""

	patterns: str		# globs of full names, separated by blanks
	first: str		# first affected version
	last: str		# last affected version; 6.14 includes all of 6.14.x
	fix: str
	text: str

	@property
	def marked(self) -> list[tuple[str, str]]:
		"""Each glob, behind the marks before it."""
		globs = ((pattern.lstrip(SOMETIMES + DEADLY), pattern) for pattern in self.patterns.split())
		return [(pattern[:-len(glob)], glob) for glob, pattern in globs]

	def marks(self, name: str) -> list[str]:
		"""Those of each glob that speaks of this test."""
		return [marks for marks, glob in self.marked if fnmatch.fnmatchcase(name, glob)]

	def affects(self, release: str) -> bool:
		version = version_key(release.split('-')[0])[:3]
		return not (self.first != '-' and version < version_key(self.first)
			    or self.last != '-' and version[:len(version_key(self.last))] > version_key(self.last))

	def concerns(self, name: str, release: str) -> bool:
		return bool(self.marks(name)) and self.affects(release)

	def is_certain(self, name: str) -> bool:
		"""Does this test fail each time?"""
		return any(SOMETIMES not in marks for marks in self.marks(name))

	def is_deadly(self, name: str) -> bool:
		"""May this test crash or hang?"""
		return any(DEADLY in marks for marks in self.marks(name))

	def globs_without_test(self, names: Iterable[str]) -> list[str]:
		names = list(names)
		return [glob for _, glob in self.marked if not fnmatch.filter(names, glob)]

	def __str__(self) -> str:
		return f'{self.text} ({self.fix})'


def find(bugs: Iterable[KnownBug], name: str, release: str) -> Optional[KnownBug]:
	"""The row that speaks of a test: the first one, but rather one of a failure that is certain."""
	found = [bug for bug in bugs if bug.concerns(name, release)]
	return next((bug for bug in found if bug.is_certain(name)), next(iter(found), None))


def find_deadly(bugs: Iterable[KnownBug], name: str, release: str) -> Optional[KnownBug]:
	"""The first row that says of a test that it may crash or hang."""
	return next((bug for bug in bugs if bug.concerns(name, release) and bug.is_deadly(name)), None)


def read_known_bugs(path: Path = KNOWN_BUGS) -> list[KnownBug]:
	"""Rows: test globs | first affected | last affected | upstream fix | one line."""
	bugs = []
	for number, row in _rows(path):
		columns = [column.strip() for column in row.split('|')]
		if len(columns) != 5 or not all(columns) or not all(
				re.fullmatch(r'-|\d+(\.\d+)*', version) for version in columns[1:3]):
			raise DevexclError(f'{path.name}:{number}: a row is "tests | first | last | fix | text": {row}')
		bugs.append(KnownBug(' '.join(columns[0].split()), *columns[1:]))
	return bugs


def _rows(path: Path) -> list[tuple[int, str]]:
	"""Each with its number; a line that begins with a blank goes on with the row before."""
	rows: list[tuple[int, str]] = []
	if not path.is_file():
		return rows
	for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
		if not line.strip() or line.lstrip().startswith('#'):
			continue
		if line[0].isspace() and rows:
			rows[-1] = (rows[-1][0], f'{rows[-1][1]} {line.strip()}')
		else:
			rows.append((number, line))
	return rows
