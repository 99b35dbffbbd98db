# SPDX-License-Identifier: GPL-2.0
"""Judging: from what happened to verdicts.

    pass    it says so, its exit status says so, and the kernel did not complain
    fail    anything else that ended by itself
    skip    the test lacks something that the machine does not have
    known   fail of a test with a matching row in known-bugs.txt; crash or hang, if
	    the row says that it may
    fixed   pass of such a test, unless it fails only sometimes, or a row that
	    matches no test: the row is stale, which fails the run
    crash   the guest did not survive it, twice
    hang    it did not end in time, or cannot be killed
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Iterable, Optional

import devexcl_known
import devexcl_ktap
import devexcl_splat
from devexcl_attempt import CRASH, HANG, Attempt, full_name
from devexcl_known import KnownBug

PASS, FAIL, SKIP, KNOWN, FIXED = 'pass', 'fail', 'skip', 'known', 'fixed'
VERDICTS = (PASS, FAIL, CRASH, HANG, FIXED, KNOWN, SKIP)
BAD = (FAIL, CRASH, HANG, FIXED)

TABLE = devexcl_known.KNOWN_BUGS.name

KSFT_SKIP = 4
# What a program of cells says when it has ended one that took too long.
HUNG_CELL = re.compile(r'no end within \d+ seconds')
SIGNALS = {4: 'SIGILL', 6: 'SIGABRT', 7: 'SIGBUS', 8: 'SIGFPE', 9: 'SIGKILL', 11: 'SIGSEGV', 14: 'SIGALRM'}


@dataclass
class Result:
	"""The verdict on one test."""

	name: str
	program: str
	verdict: str
	reason: str = ''
	seconds: float = 0.0
	details: list[str] = field(default_factory=list)	# what it printed
	console: list[str] = field(default_factory=list)	# what the kernel complained about
	bug: str = ''						# of the table, for known and fixed

	@property
	def bad(self) -> bool:
		return self.verdict in BAD


# ---- known bugs ------------------------------------------------------------------


def apply_known_bugs(results: Iterable[Result], bugs: list[KnownBug], release: str) -> None:
	for result in results:
		lost = result.verdict in (CRASH, HANG)
		bug = (devexcl_known.find_deadly if lost else devexcl_known.find)(bugs, result.name, release)
		if not bug:
			continue
		if lost or result.verdict == FAIL:
			result.verdict, result.bug = KNOWN, str(bug)
		elif result.verdict == PASS and bug.is_certain(result.name):
			result.verdict, result.bug = FIXED, str(bug)
			result.reason = f'passes on {release}, but {TABLE} says that it fails there: {bug}'


def rows_without_tests(results: Iterable[Result], bugs: list[KnownBug], release: str) -> list[Result]:
	"""A result for each row that speaks of tests which do not exist; all that exist have been run."""
	names = [result.name for result in results]
	stale = [(bug, glob) for bug in bugs if bug.affects(release) for glob in bug.globs_without_test(names)]
	return [Result(f'{TABLE}.{glob}', TABLE, FIXED,
		       f"there is no test '{glob}' on {release}, but {TABLE} says that it fails there: {bug}", bug=str(bug))
		for bug, glob in stale]


# ---- one test ----------------------------------------------------------------------


def how_it_ended(attempt: Attempt) -> str:
	"""The reason in how the program ended, if that alone is one."""
	if attempt.how == 'signal':
		return f'killed by {SIGNALS.get(attempt.code, f"signal {attempt.code}")}'
	if attempt.how == 'timeout':
		return f'no end within {attempt.code} s'
	if attempt.how == 'stuck':
		return 'cannot be killed'
	if attempt.how == HANG:
		return 'the guest does not answer any more'
	return ''


def judge_attempt(attempt: Attempt) -> list[Result]:
	"""The verdicts on all tests that one run of a program holds; at least one."""
	tap = devexcl_ktap.parse(attempt.output)
	results = [_from_tap(attempt, result) for result in tap.results]
	if attempt.test and len(results) != 1:
		# It was told to run one test: more or less than one result is none.
		results = []
	if not results and tap.skip_all is not None or \
	   not results and attempt.how == 'exit' and attempt.code == KSFT_SKIP:
		results = [Result(attempt.name, attempt.program, SKIP, tap.skip_all or
				  devexcl_ktap.failure_reason(tap.diagnostics) or 'no reason given')]
	failure = _failure_of_the_run(attempt, tap, results)
	if failure:
		verdict, reason = failure
		# The program as a whole is to blame, or the test that it had begun.
		name = attempt.test or (full_name(attempt.program, tap.running) if tap.running else attempt.program)
		blamed = next((result for result in results if result.name == name), None)
		if blamed is None:
			blamed = Result(name, attempt.program, verdict)
			results.append(blamed)
		_blame(blamed, verdict, reason)
	for result in results:
		result.details = list(attempt.output if len(results) == 1 else result.details) + \
			[f'note: {note}' for note in attempt.notes]
	if len(results) == 1:
		results[0].seconds = attempt.seconds
	return results


def _from_tap(attempt: Attempt, tap: devexcl_ktap.TapResult) -> Result:
	reason = tap.reason
	if tap.verdict == FAIL:
		reason = devexcl_ktap.failure_reason(tap.diagnostics) or reason or 'it says "not ok", and no more'
	name = attempt.test or full_name(attempt.program, tap.name)
	hung = tap.verdict == FAIL and HUNG_CELL.match(reason)
	return Result(name, attempt.program, HANG if hung else tap.verdict, reason, details=tap.diagnostics)


def _failure_of_the_run(attempt: Attempt, tap: devexcl_ktap.Tap,
			results: list[Result]) -> Optional[tuple[str, str]]:
	"""What went wrong beyond the results that the program has printed itself."""
	splats = devexcl_splat.splats(attempt.console)
	headline = splats[0].headline if splats else ''
	if attempt.how == CRASH:
		return CRASH, headline or next(iter(attempt.notes), 'the guest ended')
	if attempt.how in ('timeout', 'stuck', HANG):
		return HANG, how_it_ended(attempt) + (f'; {headline}' if headline else '')
	if splats:
		return FAIL, f'kernel log: {headline}'
	if attempt.faults:
		return FAIL, attempt.faults[0]
	if attempt.how == 'signal':
		return FAIL, how_it_ended(attempt)
	if tap.bail_out:
		return FAIL, f'bailed out: {tap.bail_out}'
	if not results:
		said = devexcl_ktap.failure_reason(attempt.output)
		return FAIL, f'exit status {attempt.code} without a result' + (f': {said}' if said else '')
	if not attempt.test and tap.plan not in (None, len(tap.results)):
		return FAIL, f'planned {tap.plan} tests, told of {len(tap.results)}'
	if attempt.code and all(result.verdict in (PASS, SKIP) for result in results) and not (
			attempt.code == KSFT_SKIP and all(result.verdict == SKIP for result in results)):
		return FAIL, f'says ok, but exits with status {attempt.code}'
	return None


def _blame(result: Result, verdict: str, reason: str) -> None:
	"""A failure of the run adds to what the test has said, and outdoes it."""
	if result.verdict == FAIL and result.reason and reason not in result.reason:
		reason = f'{result.reason}; {reason}'
	result.verdict, result.reason = verdict, reason


def judge(attempts: Iterable[Attempt], bugs: Iterable[KnownBug] = (), release: str = '',
	  complete: bool = False) -> list[Result]:
	"""The verdict on each test, in the order in which they were run first.

	A test that has crashed its guest has been run again in a fresh one. Only a
	crash that comes again is called one: emulators crash as well. But neither
	is the first crash forgotten. If the run was complete, the table of known
	bugs is judged as well.
	"""
	bugs = list(bugs)
	by_name: dict[str, list[tuple[Attempt, Result]]] = {}
	for attempt in attempts:
		for result in judge_attempt(attempt):
			if result.bad or attempt.faults:
				result.console = _what_to_show(attempt)
			by_name.setdefault(result.name, []).append((attempt, result))
	results = [_combine(tries) for tries in by_name.values()]
	stale = rows_without_tests(results, bugs, release) if complete else []
	apply_known_bugs(results, bugs, release)
	return results + stale


def _what_to_show(attempt: Attempt) -> list[str]:
	if attempt.lost:
		return devexcl_splat.excerpt(attempt.console)
	return [line for splat in devexcl_splat.splats(attempt.console) for line in splat.lines]


def _combine(tries: list[tuple[Attempt, Result]]) -> Result:
	crashes = [result for attempt, result in tries if result.verdict == CRASH]
	last = next((result for _, result in reversed(tries) if result.bad), tries[-1][1])
	if len(crashes) > 1:
		last.reason = f'crash ({len(crashes)} of {len(tries)}): {crashes[0].reason}'
	elif crashes and len(tries) == 1:
		last.reason = f'crash (not repeated): {crashes[0].reason}'
	elif crashes:
		last = tries[-1][1]
		last.verdict = FAIL
		last.reason = f'crash, not reproduced: {crashes[0].reason}'
		last.console = crashes[0].console
	last.seconds = sum(result.seconds for _, result in tries) if crashes else last.seconds
	return last
