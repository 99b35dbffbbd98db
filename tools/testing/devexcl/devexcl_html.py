# SPDX-License-Identifier: GPL-2.0
"""The matrix as one page of HTML that needs nothing else: no network, and no script to be read."""

from __future__ import annotations

import collections
import html
import shlex
from typing import Iterable, Mapping, Optional

from devexcl_host import HERE, seconds
from devexcl_judge import BAD, CRASH, FAIL, FIXED, HANG, KNOWN, PASS, SKIP, Result
from devexcl_matrix import EXCLUDED, MISSING, WORST_FIRST, Matrix, Place, exclusions, tally

STYLE, SCRIPT = HERE / 'matrix.css', HERE / 'matrix.js'

# Result: a sign that tells it without colour, and what it means.
SIGNS = {
	PASS: ('✓', 'all claims hold'),
	FAIL: ('F', 'a claim does not hold, or the kernel complained'),
	CRASH: ('C', 'the guest did not survive it'),
	HANG: ('H', 'no end in time'),
	FIXED: ('!', 'listed as known, but passes: the list is stale'),
	KNOWN: ('k', 'fails, as listed in known-bugs.txt'),
	SKIP: ('s', 'this kernel or machine lacks something'),
	EXCLUDED: ('–', 'makes no sense'),
	MISSING: ('', 'not run'),
}
# In print and in logs, the worst come first.
SHOWN = (PASS, FAIL, CRASH, HANG, FIXED, KNOWN, SKIP, EXCLUDED, MISSING)

# How much of a log is shown, in lines; and when all is too much, in bytes of all.
LINES_OF_BAD, LINES_OF_KNOWN = 60, 16
MOST_BYTES = 3_000_000


def page(matrix: Matrix) -> str:
	title = 'devexcl: ' + ', '.join(run.label for run in matrix.runs)
	logs = Logs(matrix)
	body = [_header(matrix), _controls(matrix)]
	if matrix.subjects:
		body += [_matrix(matrix), _excluded(matrix)]
	if matrix.others:
		body += [_other_tests(matrix, logs)]
	body += ['<aside id="panel" hidden tabindex="-1" aria-live="polite"></aside>', logs.text()]
	return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
		'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
		f'<style>\n{STYLE.read_text(encoding="utf-8")}</style>\n</head>\n<body>\n'
		+ '\n'.join(body) + f'\n<script>\n{SCRIPT.read_text(encoding="utf-8")}</script>\n</body>\n</html>\n')


def _text(text: object) -> str:
	return html.escape(str(text), quote=True)


def _chip(verdict: str, label: str = '') -> str:
	return f'<span class="box {verdict}">{SIGNS[verdict][0]}</span>' + (f' {_text(label)}' if label else '')


def _plural(number: int, what: str) -> str:
	return f'{number} {what}{"s" * (number != 1)}'


# ---- above the table ------------------------------------------------------------------


def _header(matrix: Matrix) -> str:
	"""A line for each kernel, with all its sums."""
	shown = [verdict for verdict in (PASS, *BAD, KNOWN, SKIP)]
	heads = ''.join(f'<th>{_chip(verdict, verdict)}</th>' for verdict in shown)
	lines = []
	for number, run in enumerate(matrix.runs):
		counts = collections.Counter(result.verdict for result in run.results)
		cells = sum(tally(matrix.places(), [number]).values())
		numbers = ''.join(f'<td class="n{" some" if counts[verdict] and verdict in BAD else ""}">'
				  f'{counts[verdict] or "·"}</td>' for verdict in shown)
		state = 'bad' if any(counts[verdict] for verdict in BAD) else 'good'
		spent = sum(run.facts.get('times', {}).get(stage, 0) for stage in ('boot', 'tests'))
		lines.append(f'<tr><th scope="row" class="{state}">{_text(run.label)}</th><td>{_text(run.title)}</td>'
			     f'<td class="n">{cells}</td><td class="n">{len(run.results) - cells}</td>{numbers}'
			     f'<td class="n">{_text(seconds(spent))}</td><td class="note">{_text(_note(run.facts))}</td></tr>')
	return ('<header><h1>What mm does to a page that a device holds</h1>\n'
		'<table class="runs"><thead><tr><th>kernel</th><th></th><th>cells</th><th>other tests</th>'
		f'{heads}<th>time</th><th></th></tr></thead>\n<tbody>\n' + '\n'.join(lines) + '\n</tbody></table></header>')


def _note(facts: Mapping) -> str:
	if facts.get('interrupted'):
		return 'interrupted'
	return facts.get('subset') or ('' if facts.get('complete', True) else 'only some tests')


def _controls(matrix: Matrix) -> str:
	"""The legend; with a script, its parts are buttons that filter."""
	legend = ''.join(f'<button type="button" data-show="{verdict}" aria-pressed="false" title="{_text(SIGNS[verdict][1])}">'
			 f'{_chip(verdict, verdict if verdict != MISSING else "not run")}</button>' for verdict in SHOWN)
	subjects = ''.join(f'<option>{_text(subject)}</option>' for subject in [*matrix.subjects, *matrix.others])
	order = ', '.join(run.label for run in matrix.runs)
	return (f'<nav class="controls"><div class="legend">{legend}</div>\n'
		f'<div class="filters"><label>Subject <select id="subject"><option value="">all</option>{subjects}</select></label>\n'
		'<label>Name <input id="name" type="search" placeholder="part of a name" size="18"></label>\n'
		'<button type="button" id="reset">Show all</button> <output id="shown"></output></div>\n'
		f'<p class="hint">In each cell from left to right: {_text(order)}. A box is the worst of three cells, in which the '
		'device holds all of the target, half of it, or its neighbours only; the tooltip tells which. A box is a link to '
		'the logs; arrow keys move between boxes.</p></nav>')


# ---- the table ----------------------------------------------------------------------------


def _matrix(matrix: Matrix) -> str:
	heads = ''.join(f'<th scope="col"><span>{_text(backing)}</span></th>' for backing in matrix.backings)
	labels = ''.join(f'<i>{_text(run.label)}</i>' for run in matrix.runs)
	kernels = ''.join(f'<td><div class="k">{labels}</div></td>' for _ in matrix.backings)
	groups = '\n'.join(_subject(matrix, subject, rows) for subject, rows in matrix.subjects.items())
	sums = ''.join(f'<td>{_sums(tally(_column(matrix, backing), range(len(matrix.runs))))}</td>' for backing in matrix.backings)
	return ('<table class="matrix" id="matrix">\n<thead>'
		f'<tr><th class="corner">operation on a page of</th>{heads}<th class="sum">cells</th></tr>'
		f'<tr class="kernels"><td></td>{kernels}<td></td></tr></thead>\n{groups}\n'
		f'<tfoot><tr><th scope="row">all operations</th>{sums}<td></td></tr></tfoot></table>')


def _column(matrix: Matrix, backing: str) -> Iterable[Place]:
	return (place for place in matrix.places() if place.name.endswith('.' + backing))


def _sums(counts: Mapping[str, int]) -> str:
	"""Sums of one row or column: what passed, and whatever did not."""
	return '<div class="sums">' + ''.join(f'<span class="{verdict}">{counts[verdict]}<b>{SIGNS[verdict][0]}</b></span>'
		for verdict in (PASS, *BAD, KNOWN, SKIP) if counts.get(verdict)) + '</div>'


def _subject(matrix: Matrix, subject: str, rows: dict[str, dict[str, Place]]) -> str:
	counts = tally((place for places in rows.values() for place in places.values()), range(len(matrix.runs)))
	lines = [f'<tbody data-subject="{_text(subject)}"><tr class="subject"><th colspan="{len(matrix.backings) + 2}" scope="rowgroup">'
		 f'<div>{_text(subject)} <small>{_plural(len(rows), "operation")}</small>{_sums(counts)}</div></th></tr>']
	for operation, places in rows.items():
		cells = ''.join(_cell(places.get(backing), matrix) for backing in matrix.backings)
		row = tally(places.values(), range(len(matrix.runs)))
		lines.append(f'<tr><th scope="row">{_text(operation)}</th>{cells}<td class="sum">{_sums(row)}</td></tr>')
	return '\n'.join(lines) + '</tbody>'


def _cell(place: Optional[Place], matrix: Matrix) -> str:
	if not place:
		return '<td></td>'
	if place.why_not and not any(place.results):
		return f'<td class="excluded" title="{_text(place.name)}: excluded, {_text(place.why_not)}">–</td>'
	boxes = ''.join(_box(place, number, matrix) for number in range(len(matrix.runs)))
	return f'<td><div class="k">{boxes}</div></td>'


def _box(place: Place, number: int, matrix: Matrix) -> str:
	verdict = place.verdict(number)
	if verdict in (EXCLUDED, MISSING):
		return f'<i class="box {verdict}" title="{_text(matrix.runs[number].label)}: not run"></i>'
	tip = f'{matrix.runs[number].label}: {place.text(number)}'
	reason = next((_reason(result) for result in place.results[number].values() if result.verdict == verdict), '')
	if reason:
		tip += f'\n{reason[:150]}'
	return f'<a class="box {verdict}" href="#{_text(place.name)}" title="{_text(tip)}">{SIGNS[verdict][0]}</a>'


def _reason(result: Result) -> str:
	return result.bug if result.verdict == KNOWN else result.reason


def _excluded(matrix: Matrix) -> str:
	reasons = exclusions(matrix)
	if not reasons:
		return ''
	items = ''.join(f'<li>{number} × {_text(why)}</li>' for why, number in
			sorted(reasons.items(), key=lambda item: -item[1]))
	return (f'<details class="rules"><summary>{_plural(sum(reasons.values()), "place")} left out, because they make no sense'
		f'</summary><ul>{items}</ul></details>')


# ---- the other tests -------------------------------------------------------------------------


def _other_tests(matrix: Matrix, logs: 'Logs') -> str:
	heads = ''.join(f'<th scope="col">{_text(run.label)}</th>' for run in matrix.runs)
	groups = []
	for program, tests in matrix.others.items():
		counts = collections.Counter(result.verdict for results in tests.values() for result in results if result)
		lines = [f'<tbody data-subject="{_text(program)}"><tr class="subject"><th colspan="{len(matrix.runs) + 2}" scope="rowgroup">'
			 f'<div>{_text(program)} <small>{_plural(len(tests), "test")}</small>{_sums(counts)}</div></th></tr>']
		for name, results in tests.items():
			boxes = ''.join(f'<td>{_test_box(name, result)}</td>' for result in results)
			worst = _worst(results)
			short = name[len(program) + 1:] if name.startswith(program + '.') else name
			why = _text(_reason(worst)[:200]) if worst and worst.verdict != PASS else ''
			lines.append(f'<tr><th scope="row">{_text(short)}</th>{boxes}<td class="why">{why}</td></tr>')
			logs.add(name, [{'': result} if result else {} for result in results])
		groups.append('\n'.join(lines) + '</tbody>')
	return ('<h2>Other tests</h2>\n<table class="tests">\n'
		f'<thead><tr><th></th>{heads}<th></th></tr></thead>\n' + '\n'.join(groups) + '</table>')


def _worst(results: Iterable[Optional[Result]]) -> Optional[Result]:
	there = [result for result in results if result]
	return min(there, key=lambda result: WORST_FIRST.index(result.verdict), default=None)


def _test_box(name: str, result: Optional[Result]) -> str:
	if not result:
		return f'<i class="box {MISSING}" title="not run"></i>'
	return f'<a class="box {result.verdict}" href="#{_text(name)}" title="{result.verdict}">{SIGNS[result.verdict][0]}</a>'


# ---- the logs ------------------------------------------------------------------------------------


class Logs:
	"""What was said in each cell: everything about failures, a short line about what passed."""

	def __init__(self, matrix: Matrix) -> None:
		self.matrix = matrix
		self._sections: list[str] = []
		self._bytes = 0
		for place in matrix.places():
			self.add(place.name, place.results, place.why_not)

	def add(self, name: str, results: list[dict[str, Result]], why_not: str = '') -> None:
		if not any(results):
			return
		lines = [self._line(number, holds) for number, holds in enumerate(results) if holds]
		note = f'<p>{_text(why_not)}</p>' if why_not else ''
		section = f'<section id="{_text(name)}"><h3>{_text(name)}</h3>{note}{"".join(lines)}</section>'
		self._bytes += len(section)
		self._sections.append(section)

	def text(self) -> str:
		return '<div id="logs"><h2>Logs</h2>\n' + '\n'.join(self._sections) + '\n</div>'

	def _line(self, number: int, holds: dict[str, Result]) -> str:
		run = self.matrix.runs[number]
		parts = [self._log(hold, result, run.facts['origin']) for hold, result in holds.items()
			 if result.verdict not in (PASS, SKIP)]
		good = [f'{hold} {1000 * result.seconds:.0f} ms'.strip() for hold, result in holds.items() if result.verdict == PASS]
		parts += [f'{_chip(PASS)} {", ".join(good)}'] if good else []
		skipped: dict[str, list[str]] = {}
		for hold, result in holds.items():
			if result.verdict == SKIP:
				skipped.setdefault(result.reason, []).append(hold)
		parts += [f'{_chip(SKIP)} {_text(", ".join(filter(None, names)))}: {_text(why)}' for why, names in skipped.items()]
		return f'<div class="run"><h4>{_text(run.label)}</h4>{"".join(f"<div>{part}</div>" for part in parts)}</div>'

	def _log(self, hold: str, result: Result, origin: str) -> str:
		most = LINES_OF_BAD if result.bad else LINES_OF_KNOWN
		lines = [line for line in result.details if line.strip()][-most:] + result.console[:most]
		text = _text('\n'.join(lines))
		if self._bytes + len(text) > MOST_BYTES:
			text = ''
		repeat = f'make run {origin} TESTS={shlex.quote(result.name)}' if result.bad else ''
		return (f'{_chip(result.verdict)} <b>{_text(hold or result.verdict)}</b>: {_text(result.reason)}'
			+ (f'<p class="bug">{_text(result.bug)}</p>' if result.bug else '')
			+ (f'<pre>{text}</pre>' if text else '') + (f'<p><code>{_text(repeat)}</code></p>' if repeat else ''))
