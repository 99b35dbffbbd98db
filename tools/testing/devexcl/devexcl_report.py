# SPDX-License-Identifier: GPL-2.0
"""Reporting: a summary for people; KTAP, JSON and JUnit for machines."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Mapping, Sequence

from devexcl_host import Timings, indent, seconds, terminal, write_atomically
from devexcl_judge import KNOWN, PASS, SKIP, VERDICTS, Result

SLOWEST = 5
SHOWN_LINES = 12
# More tests of a program with one reason are told of in one line.
ALIKE = 3
# Of so many failures all is shown that one needs to see, of so many a line.
AT_LENGTH, MOST_BAD = 20, 80
# So many failures are repeated one by one, more by their programs.
NAMED = 12
RESULTS_JSON, JUNIT_XML, RAW_KTAP, MATRIX_HTML = 'results.json', 'junit.xml', 'raw.ktap', 'matrix.html'

NOT_XML = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')


def count(results: list[Result]) -> dict[str, int]:
	tally = collections.Counter(result.verdict for result in results)
	return {verdict: tally[verdict] for verdict in VERDICTS}


def counts_line(results: list[Result]) -> str:
	return counts_text(count(results))


def counts_text(tally: Mapping[str, int]) -> str:
	return ', '.join(f'{tally[verdict]} {verdict}' for verdict in VERDICTS
			 if tally[verdict] or verdict in (PASS, 'fail', SKIP))


def _alike(results: list[Result]) -> list[list[Result]]:
	"""Those that were skipped, or are known, for one reason; whatever is bad stands alone."""
	groups: dict[object, list[Result]] = {}
	for result in results:
		key = id(result) if result.bad else result.bug or result.reason
		groups.setdefault(key, []).append(result)
	return list(groups.values())


def print_sums(results: list[Result], excluded: dict[str, dict[str, int]]) -> None:
	"""The sums of the matrix, which leaves out combinations that make no sense."""
	cells = [result for result in results if result.program in excluded]
	skipped = sum(result.verdict == SKIP for result in cells)
	reasons: collections.Counter = collections.Counter()
	for counts in excluded.values():
		reasons.update(counts)
	if not cells:
		return
	left_out = sum(reasons.values())
	terminal.say(f'Matrix:  {len(cells) + left_out} cells: {len(cells) - skipped} run, {skipped} skipped, {left_out} excluded')
	for why, number in reasons.most_common():
		terminal.say(f'       | {number} excluded: {why}')


def verdict_line(result: Result, alike: Sequence[Result] = ()) -> str:
	"""One line on a test, or on many that have the same to say."""
	what = result.name
	if len(alike) > ALIKE:
		programs = collections.Counter(other.program for other in alike)
		what = f'{len(alike)} tests (' + ', '.join(f'{program} {number}' for program, number in programs.items()) + ')'
	line = f'{result.verdict:5}  {what}'
	if result.verdict == KNOWN:
		return f'{line}: {result.bug}'
	return f'{line}: {result.reason}' if result.reason else line


def print_details(result: Result) -> None:
	"""What one needs to see of a test that went wrong."""
	details = [line for line in result.details if line.strip()]
	for lines in (details[-SHOWN_LINES:], result.console[:2 * SHOWN_LINES]):
		if lines:
			terminal.say(indent('\n'.join(lines), '       | '))


def print_failures(results: list[Result]) -> None:
	"""Whatever did not pass, and why; of many failures the first ones at length."""
	bad = [result for verdict in VERDICTS for result in results if result.verdict == verdict and result.bad]
	for number, result in enumerate(bad[:MOST_BAD]):
		terminal.say(verdict_line(result))
		if number < AT_LENGTH:
			print_details(result)
	if len(bad) > MOST_BAD:
		terminal.say(f'... and {len(bad) - MOST_BAD} more')
	for verdict in (KNOWN, SKIP):
		for alike in _alike([result for result in results if result.verdict == verdict]):
			for result in alike[:1] if len(alike) > ALIKE else alike:
				terminal.say(verdict_line(result, alike))


def print_summary(results: list[Result], facts: dict, timings: Timings, folder: Path, matrix: Sequence[str] = ()) -> None:
	"""For people: what went wrong and why first, then the numbers."""
	terminal.say('')
	print_failures(results)
	if matrix:
		terminal.say('')
	for line in matrix:
		terminal.say(line)
	print_sums(results, facts.get('excluded', {}))
	slow = sorted((result for result in results if result.seconds >= 1), key=lambda result: -result.seconds)
	if slow:
		terminal.say('')
		terminal.say('Slowest: ' + ', '.join(f'{result.name} {seconds(result.seconds)}'
						     for result in slow[:SLOWEST]))
	terminal.say(f'Times:   {timings}')
	if facts.get('cpu_seconds'):
		terminal.say(f'Guests:  {facts["guests"]} side by side, {facts["boots"]} boots, '
			     f'{seconds(facts["cpu_seconds"])} of CPU time in all')
	terminal.say(f'Results: {folder}')
	if matrix:
		terminal.say(f'Picture: {folder / MATRIX_HTML}')
	bad = [result for result in results if result.bad]
	if bad:
		terminal.say(f'Repeat:  {repeat_command(bad, facts["origin"])}')
	terminal.say(f'Linux {facts["release"]} ({facts["variant"]}, {facts["accelerator"]}): {counts_line(results)}')


def repeat_command(bad: list[Result], origin: str) -> str:
	names = [result.name for result in bad]
	tests = ' '.join(names) if len(names) <= NAMED else ' '.join(sorted({name.split('.')[0] + '.*' for name in names}))
	return f'make run {origin} TESTS={shlex.quote(tests)}'


def write_all(results: list[Result], facts: dict, timings: Timings, folder: Path) -> None:
	write_atomically(folder / RAW_KTAP, ktap(results, facts))
	write_atomically(folder / JUNIT_XML, junit(results, facts))
	write_atomically(folder / RESULTS_JSON, json.dumps({
		**facts, 'times': timings.spent, 'counts': count(results),
		'tests': [dataclasses.asdict(result) for result in results]}, indent=1) + '\n')


def _by_program(results: list[Result]) -> dict[str, list[Result]]:
	programs: dict[str, list[Result]] = {}
	for result in results:
		programs.setdefault(result.program, []).append(result)
	return programs


def ktap(results: list[Result], facts: dict) -> str:
	"""KTAP, one level of nesting: programs, and their tests."""
	programs = _by_program(results)
	lines = ['KTAP version 1', f'# Linux {facts["release"]}', f'1..{len(programs)}']
	for number, (program, tests) in enumerate(programs.items(), 1):
		lines += ['  KTAP version 1', f'  # Subtest: {program}', f'  1..{len(tests)}']
		for at, result in enumerate(tests, 1):
			lines += ['  ' + (line if line.startswith('#') else '# ' + line)
				  for line in result.details + result.console]
			lines.append(f'  {_ktap_line(at, result)}')
		word = 'not ok' if any(result.bad for result in tests) else 'ok'
		lines.append(f'{word} {number} {program}')
	return '\n'.join(lines) + '\n'


def _ktap_line(number: int, result: Result) -> str:
	word = 'not ok' if result.bad else 'ok'
	directive = {SKIP: ' # SKIP ', KNOWN: ' # XFAIL '}.get(result.verdict, ' # ' if result.bad else '')
	text = result.bug if result.verdict == KNOWN else result.reason
	if result.bad:
		text = f'{result.verdict}: {text}'
	return f'{word} {number} {result.name}{directive}{text if directive else ""}'.rstrip()


def junit(results: list[Result], facts: dict) -> str:
	suites = ElementTree.Element('testsuites', name=f'devexcl on Linux {facts["release"]}')
	for program, tests in _by_program(results).items():
		suite = ElementTree.SubElement(
			suites, 'testsuite', name=program, tests=str(len(tests)),
			failures=str(sum(result.bad for result in tests)), errors='0',
			skipped=str(sum(result.verdict in (SKIP, KNOWN) for result in tests)),
			time=f'{sum(result.seconds for result in tests):.3f}')
		for result in tests:
			case = ElementTree.SubElement(suite, 'testcase', classname=program, name=result.name,
						      time=f'{result.seconds:.3f}')
			if result.bad:
				failure = ElementTree.SubElement(case, 'failure', type=result.verdict,
								 message=_xml(result.reason))
				failure.text = _xml('\n'.join(result.details + result.console))
			elif result.verdict in (SKIP, KNOWN):
				ElementTree.SubElement(case, 'skipped', message=_xml(
					f'known bug: {result.bug}' if result.verdict == KNOWN else result.reason))
	return "<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(suites, encoding='unicode') + '\n'


def _xml(text: str) -> str:
	"""Without the characters that XML cannot hold."""
	return NOT_XML.sub('?', text)
