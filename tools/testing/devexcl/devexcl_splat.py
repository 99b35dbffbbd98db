# SPDX-License-Identifier: GPL-2.0
"""Reading the guest's console: which test was running, and what the kernel complained about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Optional

MARKER = re.compile(r'devexcl-test: (begin|end) (\S+) (\S+)')
# Written by programs that run many short tests, before each of them.
CELL = re.compile(r'devexcl-test: cell (\S+)')
EXPECT = re.compile(r'devexcl-test: expect (.+)$')
STAMP = re.compile(r'^(<\d+>)?\[\s*(\d+\.\d+)\](\[\s*[TC]\d+\])?\s?')

# What a healthy kernel never says. Cf. rcutorture's console-badness.sh.
BADNESS = re.compile('|'.join((
	r'\bcut here\b',
	r'\bWARNING:',
	r'\bBUG:',
	r'\bkernel BUG at\b',
	r'\bKASAN:', r'\bKCSAN:', r'\bKMSAN:', r'\bKFENCE:', r'\bUBSAN:',
	r'INFO: possible .*(locking|deadlock|dependency|recursive)',
	r'possible (recursive locking|circular locking|irq lock inversion)',
	r'INFO: (task|trying to register non-static|suspicious|rcu|lockdep)',
	r'suspicious RCU usage',
	r'\binconsistent lock state\b', r'\binvalid wait context\b', r'\bbad unlock balance\b',
	r'held lock freed', r'lock held when returning to user space', r'leaves? \S+ locks? held',
	r'\brcu\S*: .*(stall|detected)',
	r'soft lockup', r'hard LOCKUP', r'blocked for more than \d+ seconds',
	r'\bOops\b', r'\bgeneral protection fault\b', r'\bstack segment\b', r'\bdouble fault\b', r'\bdivide error\b',
	r'invalid opcode: ', r'unable to handle', r'Unable to handle',
	r'Kernel panic', r'\bKernel stack is corrupted', r'\bVFS: Busy inodes',
	r'Bad rss-counter', r'\bBad page\b', r'\bbad pmd\b', r'\bbad pte\b', r'non-zero pgtables_bytes',
	r'page_table_check', r'refcount_t:', r'list_(add|del) corruption', r'\bpage dumped because\b',
	r'\bBUG kmalloc', r'\bstill has objects', r'Objects remaining', r'Slab corruption', r'Poison overwritten',
	r'sleeping function called', r'scheduling while atomic', r'atomic_dec_and_test .* failed',
	r'new suspected memory leaks', r'unreferenced object',
	r'ODEBUG:', r'\bhung_task\b', r'percpu ref .* <= 0', r'swap_(dup|free|info_get): ', r'get_swap_device: ',
	r'\btrying to unregister\b', r'\bcalled with bad\b',
)))

# Looks bad and is not. One pattern a line, each with its reason.
HARMLESS = re.compile('|'.join((
	r'devexcl-(test|init):',		# our own markers carry names of tests
	r'Kernel command line:|Command line:',	# options can have such words in them
	r'Warning: unable to open an initial console',	# init opens what it needs itself
	r'^hung_task: ',			# parameters, when they are reported
	r'rcu: .*(RCU|rcu).*(enabled|adjusted|boost|set|calculated|Offload|restricting)',
	r'BUG: .* \(bisect',
)))

END_OF_SPLAT = re.compile(r'---\[ end (trace|Kernel panic)|</TASK>')
LONGEST_SPLAT = 80
# The line that says most, if a splat has several bad ones.
POOR_HEADLINE = re.compile(r'cut here|Kernel panic|\bOops\b|^=+$')


@dataclass(frozen=True)
class Splat:
	"""One complaint of the kernel."""

	headline: str
	lines: tuple[str, ...]


def message(line: str) -> str:
	"""A line of the console without its time stamp."""
	return STAMP.sub('', line)


def stamp(line: str) -> Optional[float]:
	"""The time stamp of a line, in seconds."""
	match = STAMP.match(line)
	return float(match.group(2)) if match else None


def is_bad(line: str) -> bool:
	text = message(line)
	return bool(BADNESS.search(text)) and not HARMLESS.search(text)


def splats(lines: Iterable[str]) -> list[Splat]:
	"""All complaints in a piece of console, but for those that the test has announced."""
	lines = list(lines)
	expected = [pattern for pattern in (_announced(line) for line in lines) if pattern]
	found = []
	at = 0
	while at < len(lines):
		if not is_bad(lines[at]):
			at += 1
			continue
		end = _end_of_splat(lines, at)
		block = lines[at:end]
		if not any(pattern.search(line) for pattern in expected for line in block):
			found.append(Splat(_headline(block), tuple(block)))
		at = end
	return found


def _announced(line: str) -> Optional[re.Pattern]:
	match = EXPECT.search(line)
	try:
		return re.compile(match.group(1).strip()) if match else None
	except re.error:
		return None


def _end_of_splat(lines: list[str], start: int) -> int:
	"""One past the last line of a complaint: with its trace if it has one, else the bad lines alone."""
	for at in range(start, min(len(lines), start + LONGEST_SPLAT)):
		if END_OF_SPLAT.search(lines[at]):
			return at + 1
		if MARKER.search(lines[at]) or CELL.search(lines[at]) or (at > start and 'cut here' in lines[at]):
			break
	at = start + 1
	while at < len(lines) and is_bad(lines[at]) and 'cut here' not in lines[at]:
		at += 1
	return at


def _headline(block: list[str]) -> str:
	bad = [message(line).strip() for line in block if is_bad(line)]
	return next((line for line in bad if not POOR_HEADLINE.search(line)), bad[0])


def panicked(lines: Iterable[str]) -> bool:
	return any('Kernel panic - not syncing' in line for line in lines)


def excerpt(lines: list[str], most: int = 60) -> list[str]:
	"""What to show of the console after a crash: from the first complaint on, else the end."""
	start = next((at for at, line in enumerate(lines) if is_bad(line)), max(0, len(lines) - 20))
	return lines[start:start + most]


def by_test(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
	"""A whole console, taken apart: (name of the test or cell, its lines); first what came before any test.

	What comes after a test and before the next one is charged to the former.
	"""
	parts: list[tuple[str, list[str]]] = [('', [])]
	for line in lines:
		match = MARKER.search(line)
		cell = CELL.search(line)
		if match and match.group(1) == 'begin':
			parts.append((match.group(3), []))
		elif cell:
			parts.append((cell.group(1), []))
		parts[-1][1].append(line)
	return parts
