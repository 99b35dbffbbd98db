# SPDX-License-Identifier: GPL-2.0
"""Reading what test programs print: TAP as kselftest_harness.h of 6.1 to 7.3 writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Iterable, Optional

PASS, FAIL, SKIP = 'pass', 'fail', 'skip'

PLAN = re.compile(r'1\.\.(\d+)(?:\s*#\s*SKIP\b\s*(.*))?$', re.IGNORECASE)
RESULT = re.compile(r'(not ok|ok)\b(?:\s+(\d+))?(?:\s+-)?\s*(.*)$')
DIRECTIVE = re.compile(r'(?:^|\s)#\s*(SKIP|TODO|XFAIL|XPASS)\b:?\s*(.*)$', re.IGNORECASE)
RUN = re.compile(r'#\s+RUN\s+(\S+) \.\.\.')
# "# fork.c:81:child_first:Expected 1 (1) == sum (2)", as EXPECT_ and TH_LOG() print it
ASSERTION = re.compile(r'#\s*[\w./-]+\.[ch]:\d+:')
# What the harness says about each test besides: no reason for anything.
CHATTER = re.compile(r'#\s+(RUN|OK|FAIL)\b|#\s*(Starting|PASSED|FAILED|Totals|Planned)|#\s*$')


@dataclass
class TapResult:
	"""One line of result, and the diagnostics that came before it."""

	verdict: str
	name: str
	reason: str = ''
	diagnostics: list[str] = field(default_factory=list)


@dataclass
class Tap:
	"""All that a program has printed."""

	plan: Optional[int] = None
	skip_all: Optional[str] = None		# the reason, if the plan says so
	results: list[TapResult] = field(default_factory=list)
	running: str = ''			# begun, and no result yet
	diagnostics: list[str] = field(default_factory=list)	# since the last result
	bail_out: str = ''


def parse(lines: Iterable[str]) -> Tap:
	"""Never fails: what is not TAP is a diagnostic."""
	tap = Tap()
	for line in lines:
		plan, result, run = PLAN.match(line), RESULT.match(line), RUN.match(line)
		if plan:
			tap.plan = int(plan.group(1))
			if tap.plan == 0:
				tap.skip_all = plan.group(2) or 'no reason given'
		elif result:
			tap.results.append(_result(tap, *result.groups()))
			tap.running, tap.diagnostics = '', []
		elif line.startswith('Bail out!'):
			tap.bail_out = line[len('Bail out!'):].strip() or 'no reason given'
		elif not re.match(r'K?TAP version \d+', line):
			if run:
				tap.running = run.group(1)
			tap.diagnostics.append(line)
	return tap


def _result(tap: Tap, word: str, number: str, rest: str) -> TapResult:
	directive = DIRECTIVE.search(rest)
	name, reason = rest.strip(), ''
	verdict = PASS if word == 'ok' else FAIL
	if directive:
		name, reason = rest[:directive.start()].strip(), directive.group(2).strip()
		# kselftest.h puts "# SKIP" before the name that it is given, which may be a whole line.
		again = DIRECTIVE.search(reason)
		if again and not name:
			name, reason = reason[:again.start()].strip(), again.group(2).strip()
		if directive.group(1).upper() == 'SKIP':
			verdict = SKIP
	# The harness of 6.1 prints "ok 1 # SKIP <reason>", without the name.
	name = name or tap.running or f'test{number or len(tap.results) + 1}'
	return TapResult(verdict, name, reason, tap.diagnostics)


def failure_reason(diagnostics: Iterable[str]) -> str:
	"""The first failed assertion, or the first thing said at all."""
	said = [line for line in diagnostics if line.strip() and not CHATTER.match(line)]
	assertions = [line for line in said if ASSERTION.match(line)]
	expected = [line for line in assertions if ':Expected ' in line]
	return (expected or assertions or said or [''])[0].lstrip('# ').strip()


def parse_list(lines: Iterable[str]) -> Optional[list[str]]:
	"""The full names of all tests from the table that "-l" prints; None if it is no such table.

	The table gives each fixture the rows that its longer column needs: variants
	and tests stand beside each other, but have nothing to do with each other.
	"""
	fixtures: list[tuple[str, list[str], list[str]]] = []
	seen_header = False
	fresh = True
	for line in lines:
		if line.startswith('# FIXTURE'):
			seen_header, fresh = True, True
			continue
		if not seen_header or not line.strip():
			continue
		if set(line.strip()) == {'-'}:
			fresh = True
			continue
		fixture, rest = _column(line, 20)
		variant, test = _column(rest, 25)
		if fresh:
			fixtures.append((fixture, [], []))
			fresh = False
		if variant:
			fixtures[-1][1].append(variant)
		if test.strip():
			fixtures[-1][2].append(test.strip())
	if not seen_header:
		return None
	return ['.'.join(filter(None, (fixture, variant, test)))
		for fixture, variants, tests in fixtures
		for variant in variants or ['']
		for test in tests]


def _column(line: str, width: int) -> tuple[str, str]:
	"""printf("%-<width>s %s") taken apart: a name that is too long pushes the rest."""
	if line.startswith(' ') or not line:
		return '', line[width + 1:]
	name = line.split(' ', 1)[0]
	return name, line[max(width, len(name)) + 1:]
