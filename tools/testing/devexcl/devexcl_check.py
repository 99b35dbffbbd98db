# SPDX-License-Identifier: GPL-2.0
"""Checking: everything that the project demands of itself, and the tests on all kernels."""

from __future__ import annotations

import fnmatch
import io
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from dataclasses import dataclass, field
from pathlib import Path

import devexcl_build
from devexcl_host import HERE, REPO, DevexclError, indent, run_logged, seconds, terminal
from devexcl_overlay import Overlay
from devexcl_selfcheck import Finding
from devexcl_source import Source

CHECKPATCH_KERNEL = '7.3'
SELFCHECK_KERNEL = '7.3'

EXCEPTIONS = HERE / 'checkpatch-exceptions.txt'
PRODUCTS = ('*.o', '*.ko', '*.cmd', '*.mod', '*.mod.c')


@dataclass(frozen=True)
class Suite:
	"""All tests, or a part of them, on one kernel."""

	kernel: str
	builtin: bool = False
	debug: bool = False

	@property
	def name(self) -> str:
		"""Of its folder."""
		return self.kernel + ('-builtin' if self.builtin else '') + ('-debug' if self.debug else '')

	@property
	def title(self) -> str:
		marks = ['device built in' if self.builtin else 'device as a module'] + ['debug kernel'] * self.debug
		marks += ['a subset'] * (not self.plain)
		return f'Linux {self.kernel}, {", ".join(marks)}'

	@property
	def plain(self) -> bool:
		"""The one of a kernel that is used for the checks that are no tests."""
		return not self.builtin and not self.debug


SUITES = (Suite('6.12'), Suite('6.12', builtin=True), Suite('7.3'), Suite('6.1'), Suite('7.3', debug=True))


@dataclass
class Row:
	"""One line of the final table."""

	name: str
	passed: int = 0
	failed: int = 0
	skipped: int = 0
	text: str = ''
	known: list[str] = field(default_factory=list)		# the bug behind each known failure
	could_not_run: bool = False
	complaints: list[str] = field(default_factory=list)

	def __str__(self) -> str:
		state = 'FAILED' if self.failed else 'ok'
		return f'{state:6}  {self.name:48}  {self.text}'

	@staticmethod
	def of_check(name: str, complaints: list[str], text: str) -> 'Row':
		"""A check is one thing that passes or fails, however much it has to complain of."""
		return Row(name, passed=int(not complaints), failed=int(bool(complaints)),
			   text=f'{len(complaints)} complaints' if complaints else text, complaints=complaints)


class Table:
	def __init__(self) -> None:
		self.rows: list[Row] = []

	def add(self, row: Row) -> None:
		self.rows.append(row)
		for complaint in row.complaints:
			terminal.say(indent(complaint))
		terminal.say(str(row))

	def total(self, what: str) -> int:
		return sum(getattr(row, what) for row in self.rows)

	def last_line(self) -> str:
		return f'{self.total("passed")} passed, {self.total("failed")} failed, {self.total("skipped")} skipped'


# ---- the runner's own tests ---------------------------------------------------------


def unit_tests() -> Row:
	"""All of devexcl_test.py, in this process."""
	import devexcl_test	# pylint: disable=import-outside-toplevel
	stream = io.StringIO()
	suite = unittest.defaultTestLoader.loadTestsFromModule(devexcl_test)
	result = unittest.TextTestRunner(stream=stream, verbosity=1).run(suite)
	failed = len(result.failures) + len(result.errors)
	skipped = len(result.skipped)
	return Row('unit tests of the runner', result.testsRun - failed - skipped, failed, skipped,
		   f'{result.testsRun} tests', complaints=[stream.getvalue()] if failed else [])


# ---- style -----------------------------------------------------------------------------


@dataclass(frozen=True)
class StyleException:
	"""One row of checkpatch-exceptions.txt."""

	files: str
	kind: str
	reason: str

	def covers(self, name: str, kind: str) -> bool:
		return kind == self.kind and fnmatch.fnmatchcase(name, self.files)


def read_exceptions(path: Path = EXCEPTIONS) -> list[StyleException]:
	"""Rows: glob of files | type of complaint | reason."""
	exceptions = []
	for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
		if line.strip() and not line.startswith('#'):
			columns = [column.strip() for column in line.split('|')]
			if len(columns) != 3 or not all(columns):
				raise DevexclError(f'{path.name}:{number}: a row is "files | type | reason": {line}')
			exceptions.append(StyleException(*columns))
	return exceptions


def style_complaints(output: str, exceptions: list[StyleException]) -> tuple[list[str], set[StyleException]]:
	"""What remains of checkpatch's output, and which exceptions were used."""
	complaints, used = [], set()
	for line in output.splitlines():
		match = re.match(r'(\S+?):(\d+): (ERROR|WARNING|CHECK):(\w+): ', line)
		if not match:
			continue
		covering = {row for row in exceptions if row.covers(match.group(1), match.group(4))}
		used |= covering
		if not covering:
			complaints.append(line)
	return complaints, used


def style(source: Source) -> Row:
	"""checkpatch.pl --strict on every file that would go into a kernel tree."""
	files = Overlay.for_patches().files
	exceptions = read_exceptions()
	with tempfile.TemporaryDirectory() as folder:
		# Under the names that they have in a tree, as some rules go by names.
		for name, contents in files.items():
			target = Path(folder) / name
			target.parent.mkdir(parents=True, exist_ok=True)
			target.write_bytes(contents)
		done = subprocess.run(['perl', source.tree / 'scripts/checkpatch.pl', f'--root={source.tree}', '--strict',
				       '--terse', '--show-types', '--no-summary', '--file', *sorted(files)],
				      cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
				      env={**os.environ, 'HOME': folder}, encoding='utf-8', errors='replace')
	complaints, used = style_complaints(done.stdout, exceptions)
	if done.returncode not in (0, 1):
		complaints.append(f'checkpatch.pl failed: {done.stdout[-500:]}')
	complaints += [f'{EXCEPTIONS.name}: nothing needs this exception any more: {row.files} | {row.kind}'
		       for row in exceptions if row not in used]
	return Row.of_check('checkpatch --strict', complaints, f'{len(files)} files, {len(exceptions)} exceptions')


# ---- the module by itself ----------------------------------------------------------------


def out_of_tree(source: Source, folder: Path) -> list[Row]:
	"""`make modules KDIR=`, plainly and with W=1 and sparse, in a copy of the repository."""
	rows = []
	with source.lock():
		build_dir = devexcl_build.ready_build_folder(source, folder / 'build.log')
		for name, flags in ((f'make modules on {source.name}', []),
				    (f'W=1 and sparse on {source.name}', ['W=1', 'C=2'])):
			log = folder / (name.split(' ', maxsplit=1)[0] + '-modules.log')
			with tempfile.TemporaryDirectory() as scratch:
				shutil.copytree(REPO, scratch, dirs_exist_ok=True, symlinks=True,
						ignore=shutil.ignore_patterns('results', '.git', *PRODUCTS))
				try:
					run_logged(['make', '-C', scratch, 'modules', f'KDIR={build_dir}', *flags], what=name, log=log)
					output = log.read_text(encoding='utf-8', errors='replace')
					complaints = warnings(output, scratch)
				except DevexclError as err:
					complaints = str(err).splitlines()
			if 'C=2' in flags and not complaints and not sparse_was_run(output):
				name = f'W=1 on {source.name}'
				rows.append(Row(f'sparse on {source.name}', skipped=1,
						text='this kernel wants a newer sparse than there is'))
			rows.append(Row.of_check(name, complaints, 'no warning'))
	return rows


def sparse_was_run(output: str) -> bool:
	"""A kernel that finds sparse too old warns, and does without."""
	return bool(re.search(r'^\s*CHECK\s+.*test_devexcl', output, re.MULTILINE))


def warnings(output: str, folder: str) -> list[str]:
	"""Complaints of compiler and sparse about our files, not about the kernel's."""
	found = re.findall(r'^\S+:\d+.*(?:warning|error):.*$', output, re.MULTILINE)
	return [line for line in found if line.startswith(folder) or 'test_devexcl' in line.split(':')[0]]


def warnings_of_tests(image: devexcl_build.Image) -> Row:
	path = image.tests / devexcl_build.WARNINGS
	complaints = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
	return Row.of_check(f'warnings in tests on {image.manifest["release"]}', complaints,
			    f'{len(image.programs)} programs')


# ---- all of it ---------------------------------------------------------------------------------


def suite_row(name: str, results: list, spent: float) -> Row:
	"""The tests on one kernel: a known failure is as expected."""
	bad = [result for result in results if result.bad]
	skipped = [result for result in results if result.verdict == 'skip']
	known = [result.bug for result in results if result.verdict == 'known']
	return Row(name, len(results) - len(bad) - len(skipped), len(bad), len(skipped),
		   f'{len(results)} tests, {len(bad)} bad, {len(known)} known, {len(skipped)} skipped, {seconds(spent)}',
		   known)


def selfcheck_row(kernel: str, found: list[Finding], spent: float) -> Row:
	"""Each broken driver counts: is it noticed, and does the kernel bear it?"""
	bad = [finding for finding in found if finding.bad]
	return Row(f'broken drivers on Linux {kernel}', len(found) - len(bad), len(bad),
		   text=f'{len(found) - len(bad)} of {len(found)} noticed, {seconds(spent)}',
		   complaints=[str(finding) for finding in bad])


def failed_row(name: str, error: DevexclError) -> Row:
	return Row(name, failed=1, text=str(error).splitlines()[0], could_not_run=True, complaints=[str(error)])


def print_table(table: Table) -> None:
	terminal.say('')
	for bug in dict.fromkeys(bug for row in table.rows for bug in row.known):
		terminal.say(f'known   {bug}')
		for row in table.rows:
			if bug in row.known:
				terminal.say(f'            {row.known.count(bug)} on {row.name}')
	for row in table.rows:
		terminal.say(str(row))
	terminal.say(f'{sum(len(row.known) for row in table.rows)} known failures, counted as passed')
	terminal.say(table.last_line())
