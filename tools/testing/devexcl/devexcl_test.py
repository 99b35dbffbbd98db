#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests of the runner, on recorded and on hand-made material. They need no kernel and no QEMU."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Optional
from unittest import mock

import devexcl
import devexcl_attempt
import devexcl_batch
import devexcl_bench
import devexcl_build
import devexcl_check
import devexcl_collect
import devexcl_config
import devexcl_host
import devexcl_html
import devexcl_judge
import devexcl_known
import devexcl_ktap
import devexcl_matrix
import devexcl_overlay
import devexcl_plan
import devexcl_qemu
import devexcl_report
import devexcl_selfcheck
import devexcl_source
import devexcl_splat
import devexcl_tools
from devexcl_attempt import CRASH, HANG, Attempt
from devexcl_background import Background
from devexcl_collect import Collector
from devexcl_host import CANNOT_RUN, FAILED, INTERRUPTED, OK, DevexclError
from devexcl_known import KnownBug
from devexcl_plan import Job, Limits, Queue
from devexcl_qemu import Event

HERE = Path(__file__).resolve().parent
DATA = HERE / 'test_data'


def lines_of(name: str) -> list[str]:
	return (DATA / name).read_text(encoding='utf-8', errors='replace').splitlines()


def attempt(output: str = '', *, test: str = 'demo.x', how: str = 'exit', code: int = 0, **rest) -> Attempt:
	return Attempt('demo', test, 1, output=output.splitlines(), how=how, code=code, **rest)


def verdict(*args, **kwargs) -> tuple[str, str]:
	[result] = devexcl_judge.judge([attempt(*args, **kwargs)])
	return result.verdict, result.reason


class QuietTest(unittest.TestCase):
	"""A test with a folder of its own, a cache in it, and nothing printed."""

	def setUp(self) -> None:
		folder = tempfile.TemporaryDirectory()
		self.addCleanup(folder.cleanup)
		self.folder = Path(folder.name)
		self.said = io.StringIO()
		terminal = devexcl_host.Terminal(self.said)
		for patch in (mock.patch.dict(os.environ, {'DEVEXCL_CACHE': str(self.folder / 'cache')}),
			      *(mock.patch.object(module, 'terminal', terminal) for module in sys.modules.values()
				if getattr(module, '__name__', '').startswith('devexcl') and hasattr(module, 'terminal'))):
			patch.start()
			self.addCleanup(patch.stop)

	def write(self, name: str, text: str = '') -> Path:
		path = self.folder / name
		path.parent.mkdir(parents=True, exist_ok=True)
		path.write_text(text, encoding='utf-8')
		return path


# ---- what test programs print ------------------------------------------------------------


class KtapTest(unittest.TestCase):
	def test_harness_of_each_kernel(self) -> None:
		for kernel in ('6.1', '6.12', '7.3'):
			with self.subTest(kernel=kernel):
				tap = devexcl_ktap.parse(lines_of(f'harness-{kernel}.tap'))
				self.assertEqual(tap.plan, 3)
				self.assertEqual([(result.verdict, result.name) for result in tap.results],
						 [('pass', 'global.passes'), ('fail', 'global.fails'),
						  ('skip', 'global.skips')])
				self.assertEqual(tap.results[2].reason, 'no such machine')
				self.assertEqual(devexcl_ktap.failure_reason(tap.results[1].diagnostics),
						 'h.c:3:fails:Expected 1 (1) == two (2)')

	def test_truncated(self) -> None:
		tap = devexcl_ktap.parse(['TAP version 13', '1..2', '#  RUN           f.a ...', 'ok 1 f.a',
					  '#  RUN           f.b ...', 'not o'])
		self.assertEqual((tap.plan, len(tap.results), tap.running), (2, 1, 'f.b'))

	def test_garbage_is_no_result(self) -> None:
		tap = devexcl_ktap.parse(['okay', 'ok', '\x00\xff ok 1 x', 'notok 2', '1..', '1..x', '', '#'])
		self.assertEqual([result.name for result in tap.results], ['test1'])
		self.assertIsNone(tap.plan)

	def test_directives(self) -> None:
		tap = devexcl_ktap.parse(['ok 1 a # SKIP', 'ok 2 b # XFAIL known', 'not ok 3 - c # TODO later',
					  'ok 4 d#1', '1..0 # SKIP no device', 'Bail out! no memory'])
		self.assertEqual([(result.verdict, result.name) for result in tap.results],
				 [('skip', 'a'), ('pass', 'b'), ('fail', 'c'), ('pass', 'd#1')])
		self.assertEqual((tap.skip_all, tap.bail_out), ('no device', 'no memory'))
		tap = devexcl_ktap.parse(['ok 1 # SKIP demo.a # SKIP no pkeys', 'ok 2 # SKIP no swap'])
		self.assertEqual([(result.name, result.reason) for result in tap.results],
				 [('demo.a', 'no pkeys'), ('test2', 'no swap')])

	def test_list(self) -> None:
		def row(*columns: str) -> str:
			return '%-20s %-25s %s' % columns
		table = [row('# FIXTURE', 'VARIANT', 'TEST'), row('one', 'small', 'a'), row('', 'large', ''),
			 '-' * 80, row('a_fixture_with_a_very_long_name', '', 'b'), row('', '', 'c'),
			 '-' * 80, row('three', 'a_variant_with_a_name_longer_than_its_column', 'd')]
		self.assertEqual(devexcl_ktap.parse_list(table), [
			'one.small.a', 'one.large.a', 'a_fixture_with_a_very_long_name.b',
			'a_fixture_with_a_very_long_name.c', 'three.a_variant_with_a_name_longer_than_its_column.d'])
		self.assertIsNone(devexcl_ktap.parse_list(['TAP version 13', 'ok 1 x']))


# ---- the console ----------------------------------------------------------------------------


class SplatTest(unittest.TestCase):
	def test_recorded_warning(self) -> None:
		[splat] = devexcl_splat.splats(lines_of('warning-6.12.console'))
		self.assertIn('WARNING: CPU: 1 PID: 0 at arch/x86/kernel/smpboot.c:350', splat.headline)
		self.assertGreater(len(splat.lines), 15)

	def test_recorded_panic(self) -> None:
		console = lines_of('panic-6.12.console')
		self.assertTrue(devexcl_splat.panicked(console))
		[splat] = devexcl_splat.splats(console)
		self.assertEqual(splat.headline, 'Kernel panic - not syncing: sysrq triggered crash')
		name, part = devexcl_splat.by_test(console)[-1]
		self.assertEqual(name, 'demo.global.panics')
		self.assertTrue(devexcl_splat.panicked(part))

	def test_one_of_each(self) -> None:
		for line in ('BUG: KASAN: slab-use-after-free in foo+0x1/0x2', 'UBSAN: shift-out-of-bounds in mm/x.c:1:2',
			     'WARNING: possible circular locking dependency detected', 'WARNING: suspicious RCU usage',
			     'INFO: possible recursive locking detected', 'BUG: Bad rss-counter state mm:1 type:2 val:3',
			     'BUG: Bad page state in process x  pfn:1', 'Oops: general protection fault, maybe for address 0x1',
			     'BUG: unable to handle page fault for address: 0', 'stack segment: 0000 [#1] SMP',
			     'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:', 'refcount_t: underflow; use-after-free.',
			     'INFO: task x:1 blocked for more than 120 seconds.', 'watchdog: BUG: soft lockup - CPU#0 stuck',
			     'kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)',
			     'page_table_check: x', 'list_del corruption. next->prev should be', 'kernel BUG at mm/rmap.c:1!',
			     'BUG kmalloc-64 (Tainted: G    B): Redzone overwritten', 'DEBUG_LOCKS_WARN_ON(1)WARNING: at x',
			     'kmem_cache_destroy x: Slab cache still has objects when called from y'):
			with self.subTest(line=line):
				self.assertTrue(devexcl_splat.is_bad(f'[    1.000000] {line}'))

	def test_harmless(self) -> None:
		for line in ('devexcl-test: begin 1 x.WARNING:', 'Kernel command line: panic=-1 oops=panic WARNING: x',
			     'rcu: Hierarchical RCU implementation.', 'test_devexcl: loading test module taints kernel.',
			     'random: crng init done', 'Run /init as init process', 'debug: unmapping init memory'):
			with self.subTest(line=line):
				self.assertFalse(devexcl_splat.is_bad(f'[    1.000000] {line}'))

	def test_expected(self) -> None:
		warning = ['[ 1.0] ------------[ cut here ]------------', '[ 1.0] WARNING: CPU: 0 at mm/a.c:1 f+0x1/0x2',
			   '[ 1.0] Call Trace:', '[ 1.0] ---[ end trace 0000000000000000 ]---']
		other = ['[ 1.0] BUG: Bad page state in process x']
		self.assertEqual(len(devexcl_splat.splats(warning + other)), 2)
		expect = ['[ 1.0] devexcl-test: expect mm/a\\.c:\\d+']
		self.assertEqual([splat.headline for splat in devexcl_splat.splats(expect + warning + other)],
				 ['BUG: Bad page state in process x'])
		self.assertEqual(len(devexcl_splat.splats(['devexcl-test: expect (', *other])), 1)

	def test_charged_to_the_test_before(self) -> None:
		parts = devexcl_splat.by_test(['boot', 'devexcl-test: begin 1 a', 'x', 'devexcl-test: end 1 a', 'late',
					       'devexcl-test: begin 2 b', 'y'])
		self.assertEqual([(name, len(lines)) for name, lines in parts], [('', 1), ('a', 4), ('b', 2)])
		parts = devexcl_splat.by_test(['devexcl-test: begin 1 m', 'devexcl-test: cell m.x', 'x', 'devexcl-test: cell m.y'])
		self.assertEqual([(name, len(lines)) for name, lines in parts], [('', 0), ('m', 1), ('m.x', 2), ('m.y', 1)])


# ---- verdicts ------------------------------------------------------------------------------------


class JudgeTest(unittest.TestCase):
	def test_recorded_run(self) -> None:
		"""A real run of a program made for it: one test for each thing that can happen."""
		attempts = [Attempt(**json.loads(line)) for line in lines_of('demo-6.12.record.jsonl')]
		verdicts = {result.name.replace('demo.global.', ''): result.verdict
			    for result in devexcl_judge.judge(attempts)}
		self.assertEqual(verdicts, {
			'kernel.boot': 'pass', 'passes': 'pass', 'fails': 'fail', 'skips': 'skip', 'dies': 'fail',
			'splats': 'fail', 'announces': 'pass', 'leaves_child': 'pass', 'garbage': 'pass',
			'long_line': 'pass', 'exits_early': 'fail', 'stops': 'hang', 'panics': 'crash',
			'reboots': 'crash', 'panics_once': 'crash', 'blocks_cpus': 'pass', 'last': 'pass'})

	def test_pass_needs_everything(self) -> None:
		self.assertEqual(verdict('1..1\nok 1 x'), ('pass', ''))
		self.assertEqual(verdict('1..1\nok 1 x', code=1), ('fail', 'says ok, but exits with status 1'))
		self.assertEqual(verdict('1..1\nok 1 x', how='signal', code=11), ('fail', 'killed by SIGSEGV'))
		self.assertEqual(verdict('1..1\nok 1 x', faults=['module x still has 1 references'])[0], 'fail')
		self.assertEqual(verdict('1..1\nok 1 x', console=['BUG: Bad page map'])[1], 'kernel log: BUG: Bad page map')
		self.assertEqual(verdict('')[1], 'exit status 0 without a result')
		self.assertEqual(verdict('1..1\nok 1 x\nok 2 y')[0], 'fail')

	def test_skip(self) -> None:
		self.assertEqual(verdict('ok 1 # SKIP no pkeys', code=4), ('skip', 'no pkeys'))
		self.assertEqual(verdict('1..0 # SKIP no device', code=4), ('skip', 'no device'))
		self.assertEqual(verdict('ok 1 # SKIP no pkeys', console=['WARNING: x'])[0], 'fail')

	def test_hang_and_crash(self) -> None:
		self.assertEqual(verdict('', how='timeout', code=60), ('hang', 'no end within 60 s'))
		self.assertEqual(verdict('', how='stuck', code=60)[0], 'hang')
		self.assertEqual(verdict('', how=HANG)[0], 'hang')
		self.assertEqual(verdict('ok 1 x', how=CRASH)[0], 'crash')
		self.assertEqual(verdict('# no end within 60 seconds\nnot ok 1 x', code=1), ('hang', 'no end within 60 seconds'))

	def test_crash_is_repeated(self) -> None:
		crash = attempt(how=CRASH, console=['Kernel panic - not syncing: x'])
		[both] = devexcl_judge.judge([crash, crash])
		self.assertEqual((both.verdict, both.reason), ('crash', 'crash (2 of 2): Kernel panic - not syncing: x'))
		[once] = devexcl_judge.judge([crash, attempt('ok 1 x')])
		self.assertEqual((once.verdict, once.reason),
				 ('fail', 'crash, not reproduced: Kernel panic - not syncing: x'))
		self.assertTrue(once.console)

	def test_whole_program(self) -> None:
		results = devexcl_judge.judge([attempt('1..3\nok 1 a\nnot ok 2 b', test='', code=1)])
		self.assertEqual([(result.name, result.verdict) for result in results],
				 [('demo.a', 'pass'), ('demo.b', 'fail'), ('demo', 'fail')])
		self.assertEqual(results[2].reason, 'planned 3 tests, told of 2')
		results = devexcl_judge.judge([attempt('1..2\nok 1 a\n#  RUN           f.b ...', test='', how=CRASH)])
		self.assertEqual([(result.name, result.verdict) for result in results],
				 [('demo.a', 'pass'), ('demo.f.b', 'crash')])

	def test_garbage(self) -> None:
		for output in ('\x00\x01', 'ok', '#' * 10000, 'ok ok ok', '1..99999999999999999999'):
			with self.subTest(output=output[:20]):
				self.assertTrue(devexcl_judge.judge([attempt(output)]))

	def test_truncated_record(self) -> None:
		with tempfile.TemporaryDirectory() as name:
			folder = Path(name)
			whole = lines_of('demo-6.12.record.jsonl')
			(folder / devexcl_attempt.RECORD).write_text('\n'.join(whole)[:-100], encoding='utf-8')
			self.assertEqual(len(devexcl_attempt.read_record(folder)), len(whole) - 1)
			with self.assertRaises(DevexclError):
				devexcl_attempt.read_record(folder / 'nothing')


class KnownBugsTest(QuietTest):
	def judge(self, row: KnownBug, release: str, *tries: Attempt) -> devexcl_judge.Result:
		[result] = devexcl_judge.judge(tries, [row], release)
		return result

	def test_versions(self) -> None:
		row = KnownBug('demo.*', '5.14', '6.14', 'abc', 'text')
		for release, concerned in (('5.13.9', False), ('5.14.0', True), ('6.12.117', True), ('6.14.11', True),
					   ('6.15.0', False), ('7.3.4', False), ('6.12.0-rc1', True), ('6.1.192-x', True)):
			with self.subTest(release=release):
				self.assertEqual(row.concerns('demo.x', release), concerned)
		exact = KnownBug('demo.x', '-', '6.12.40', 'abc', 'text')
		self.assertTrue(exact.concerns('demo.x', '6.12.40'))
		self.assertFalse(exact.concerns('demo.x', '6.12.41'))
		self.assertFalse(exact.concerns('demo.y', '6.12.40'))
		self.assertTrue(KnownBug('*', '6.15', '-', 'unfixed', 'text').concerns('a', '9.0.0'))

	def test_known_fixed_and_neither(self) -> None:
		row = KnownBug('demo.x', '-', '6.14', 'abc', 'text')
		bad = attempt('not ok 1 x', code=1)
		self.assertEqual(self.judge(row, '6.12.1', bad).verdict, 'known')
		self.assertEqual(self.judge(row, '7.3.4', bad).verdict, 'fail')
		fixed = self.judge(row, '6.12.1', attempt('ok 1 x'))
		self.assertEqual((fixed.verdict, fixed.bad), ('fixed', True))
		self.assertEqual(self.judge(row, '6.12.1', attempt('ok 1 # SKIP no', code=4)).verdict, 'skip')

	def test_only_sometimes(self) -> None:
		row = KnownBug('other ~demo.x', '-', '6.14', 'abc', 'text')
		self.assertEqual(self.judge(row, '6.12.1', attempt('not ok 1 x', code=1)).verdict, 'known')
		self.assertEqual(self.judge(row, '6.12.1', attempt('ok 1 x')).verdict, 'pass')
		certain = KnownBug('demo.x demo.y', '-', '6.14', 'def', 'text')
		[result] = devexcl_judge.judge([attempt('ok 1 x')], [row, certain], '6.12.1')
		self.assertEqual(result.verdict, 'fixed')

	def test_deadly(self) -> None:
		crash = attempt(how=CRASH)
		failure = attempt('not ok 1 x', code=1)
		harmless = KnownBug('demo.x', '-', '6.14', 'abc', 'text')
		self.assertEqual(self.judge(harmless, '6.12.1', crash).verdict, 'crash')
		for patterns in ('!demo.x', '~!demo.x', '!~demo.x'):
			row = KnownBug(patterns, '-', '6.14', 'def', 'text')
			self.assertEqual(self.judge(row, '6.12.1', crash).verdict, 'known')
			self.assertEqual(self.judge(row, '6.12.1', failure).verdict, 'known')
			self.assertEqual(self.judge(row, '7.3.4', crash).verdict, 'crash')
			[result] = devexcl_judge.judge([crash], [harmless, row], '6.12.1')
			self.assertEqual((result.verdict, result.bug), ('known', 'text (def)'))

	def test_row_without_a_test(self) -> None:
		rows = [KnownBug('demo.x ~gone.* demo.z', '-', '6.14', 'abc', 'text'), KnownBug('never', '7.0', '-', 'abc', 'text')]
		bad = attempt('not ok 1 x', code=1)
		results = devexcl_judge.judge([bad], rows, '6.12.1', complete=True)
		self.assertEqual([(result.name, result.verdict) for result in results], [
			('demo.x', 'known'), ('known-bugs.txt.gone.*', 'fixed'), ('known-bugs.txt.demo.z', 'fixed')])
		self.assertIn("there is no test 'gone.*' on 6.12.1", results[1].reason)
		self.assertEqual(len(devexcl_judge.judge([bad], rows, '6.12.1')), 1)

	def test_table(self) -> None:
		path = self.write('known', '# comment\n\na.* | 5.14 | 6.14 | 438354724f69 | why: x, y\n')
		self.assertEqual(devexcl_known.read_known_bugs(path),
				 [KnownBug('a.*', '5.14', '6.14', '438354724f69', 'why: x, y')])
		path = self.write('known', 'a.*  b\n\t~c\n# comment\n  | 5.14 | 6.14 | abc\n | why\nd | - | - | abc | x\n')
		self.assertEqual(devexcl_known.read_known_bugs(path),
				 [KnownBug('a.* b ~c', '5.14', '6.14', 'abc', 'why'), KnownBug('d', '-', '-', 'abc', 'x')])
		for row in ('a | b | c | d | e', 'a | 5 | 6', 'a | 5 | 6 | | e'):
			with self.subTest(row=row), self.assertRaises(DevexclError):
				devexcl_known.read_known_bugs(self.write('known', row))

	def test_ours(self) -> None:
		devexcl_known.read_known_bugs()


# ---- running --------------------------------------------------------------------------------------


class FakeGuest:
	"""Plays a script of events for each program that it is told to run."""

	def __init__(self, script: dict[str, list]) -> None:
		self.script = script
		self.events: list[Event] = []
		hello = script.get('hello', ['6.12.1 cpus=2 modules=builtin'])
		self.hello = hello.pop(0) if len(hello) > 1 else hello[0]
		self.killed = self.off = self.entered = False
		self.cpu_seconds = 1.5
		self.cells = script.get('cells', [])
		self.batches = script.setdefault('batches', [])
		self.clock = 1.0

	def __enter__(self) -> 'FakeGuest':
		assert not self.entered, 'that would be a second QEMU'
		self.entered = True
		return self

	def __exit__(self, *exc) -> None:
		pass

	def wait_until_ready(self) -> list[str]:
		return ['booting']

	def send(self, word: str, number: str = '', _limit: str = '', name: str = '', *command: str) -> None:
		if word not in ('run', 'batch'):
			return
		if name in self.cells:
			self.play_batch(number, name, [word for word in command if word != '-r' and not re.match(r'\./|\w+=', word)])
			return
		queue = self.script.get(name, [])
		behaviour = queue.pop(0) if len(queue) > 1 else queue[0] if queue else 'pass'
		begin = [Event('console', f'devexcl-test: begin {number} {name}'), Event('channel', f'begin {number} {name}')]
		end = [Event('channel', f'end {number} exit 0 10'), Event('console', f'devexcl-test: end {number} {name}')]
		self.events += begin
		if behaviour == 'list':
			self.events += [Event('channel', f'out {number} ' + text) for text in
					('%-20s %-25s %s' % ('# FIXTURE', 'VARIANT', 'TEST'), '%-20s %-25s %s' % ('demo', '', 'a'),
					 '%-20s %-25s %s' % ('', '', 'b'), '%-20s %-25s %s' % ('', '', 'c'))] + end
		elif behaviour == 'list cells':
			self.events += [Event('channel', f'out {number} {text}') for text in
					('# TESTS', 'many.a', 'many.b', 'many.c', 'many.d.half', '# excluded: 7 cells: no half',
					 '# excluded: 2 cells: not here')] + end
		elif behaviour == 'panic':
			self.events += [Event('console', 'Kernel panic - not syncing: x'), Event('gone')]
		elif behaviour == 'hang':
			self.events.append(Event('silence'))
		elif behaviour == 'splat':
			self.events += [Event('channel', f'out {number} ok 1 {name}'), Event('console', 'WARNING: x'), *end]
		else:
			self.events += [Event('channel', f'out {number} ok 1 {name}'), *end]

	def play_batch(self, number: str, program: str, cells: list[str]) -> None:
		"""A program that runs many cells; what happens in each is in the script, under its name."""
		def console(text: str) -> None:
			self.events.append(Event('console', f'[{self.clock:12.6f}] {text}'))

		def out(text: str) -> None:
			self.events.append(Event('channel', f'out {number} {text}'))

		self.batches.append(cells)
		console(f'devexcl-test: begin {number} {program}')
		how = 'exit 0'
		for at, cell in enumerate(cells, 1):
			queue = self.script.get(cell, [])
			behaviour = queue.pop(0) if len(queue) > 1 else queue[0] if queue else 'pass'
			if behaviour == 'no start':
				out('Bail out! the device does not work')
				how = 'exit 1'
				break
			out(f'#  RUN           {cell} ...')
			console(f'devexcl-test: cell {cell}')
			self.clock += 0.5
			if behaviour == 'panic':
				console('Kernel panic - not syncing: x')
				self.events.append(Event('gone'))
				return
			if behaviour == 'hang':
				self.events.append(Event('silence'))
				return
			if behaviour == 'interrupt':
				self.events.append(KeyboardInterrupt())
				return
			if behaviour == 'dies':
				how = 'signal 11'
				break
			if behaviour == 'timeout':
				how = 'timeout 60'
				break
			if behaviour == 'splat':
				console('WARNING: x')
			if behaviour == 'lost output':	# ... with the panic of the next one
				self.events.pop(-2)
			elif behaviour == 'fail':
				out('# why it fails')
				out(f'not ok {at} {cell}')
				how = 'exit 1'
			else:
				out(f'ok {at} {cell}')
			if behaviour == 'exits':
				break
		console(f'devexcl-test: end {number} {program}')
		self.events.append(Event('channel', f'end {number} {how} {len(cells) * 500}'))

	def next_event(self, _timeout: float) -> Event:
		if self.events and isinstance(self.events[0], BaseException):
			raise self.events.pop(0)
		return self.events.pop(0) if self.events else Event('gone')

	def power_off(self) -> list[str]:
		self.off = True
		return ['reboot: Power down']

	def kill(self) -> None:
		self.killed = True


class CollectTest(QuietTest):
	def collect(self, script: dict[str, list], patterns: tuple[str, ...] = (),
		    known: str = '') -> tuple[Collector, dict[str, str]]:
		script = {'demo.list': ['list'], **script}
		image = mock.Mock(programs=['demo'], modules=[], manifest={'debug': False})
		collector = Collector(image, ('tcg', 'max'), self.folder, limits=Limits(), patterns=list(patterns),
				      expected=lambda name, release: (name, release) == (known, '6.12.1'))
		with mock.patch.object(devexcl_collect, 'Guest', lambda *args, **kwargs: FakeGuest(script)):
			collector.run()
		results = devexcl_judge.judge(collector.attempts)
		return collector, {result.name: result.verdict for result in results}

	def test_all_pass(self) -> None:
		collector, verdicts = self.collect({})
		self.assertEqual(verdicts, {'kernel.boot': 'pass', 'demo.a': 'pass', 'demo.b': 'pass', 'demo.c': 'pass'})
		self.assertEqual((collector.boots, collector.cpu_seconds), (1, 1.5))
		self.assertEqual([item.name for item in devexcl_attempt.read_record(self.folder)],
				 ['kernel.boot', 'demo.a', 'demo.b', 'demo.c'])

	def test_panic_twice(self) -> None:
		collector, verdicts = self.collect({'demo.b': ['panic']})
		self.assertEqual((verdicts['demo.b'], verdicts['demo.c']), ('crash', 'pass'))
		self.assertEqual(collector.boots, 3)

	def test_panic_once(self) -> None:
		collector, verdicts = self.collect({'demo.a': ['panic', 'pass']})
		self.assertEqual((verdicts['demo.a'], collector.boots), ('fail', 2))
		self.assertTrue(collector.complete)

	def test_a_cpu_is_missing(self) -> None:
		collector, verdicts = self.collect({'hello': ['6.12.1 cpus=1 modules=builtin', '6.12.1 cpus=2 modules=builtin']})
		self.assertEqual((verdicts['demo.c'], collector.boots), ('pass', 2))
		self.assertIn('without all CPUs', self.said.getvalue())

	def test_known_panic_is_not_repeated(self) -> None:
		collector, verdicts = self.collect({'demo.b': ['panic']}, known='demo.b')
		self.assertEqual((verdicts['demo.b'], verdicts['demo.c'], collector.boots), ('crash', 'pass', 2))

	def test_hang_is_not_repeated(self) -> None:
		collector, verdicts = self.collect({'demo.a': ['hang']})
		self.assertEqual((verdicts['demo.a'], verdicts['demo.b'], collector.boots), ('hang', 'pass', 2))

	def test_splat_takes_a_fresh_boot(self) -> None:
		collector, verdicts = self.collect({'demo.a': ['splat']})
		self.assertEqual((verdicts['demo.a'], verdicts['demo.b'], collector.boots), ('fail', 'pass', 2))

	def test_patterns(self) -> None:
		for patterns in (('demo.b',), ('b',), ('*.b',), ('?',)):
			with self.subTest(patterns=patterns):
				collector, verdicts = self.collect({}, patterns)
				self.assertIn('demo.b', verdicts)
				self.assertFalse(collector.complete)
		with self.assertRaisesRegex(DevexclError, "TESTS='dmeo.a' matches no test.*demo.a"):
			self.collect({}, ('demo.b', 'dmeo.a'))

	def test_names(self) -> None:
		self.assertEqual(devexcl_attempt.full_name('fork', 'fork.x'), 'fork.x')
		self.assertEqual(devexcl_attempt.full_name('fork', 'forked.x'), 'fork.forked.x')

	def test_limits(self) -> None:
		self.write('settings', 'timeout=90\n')
		image = mock.Mock(tests=self.folder, manifest={'debug': False})
		self.assertEqual(Limits.of(image), Limits(60, 90))
		self.write('settings', 'timeout=0\n')
		self.assertEqual(Limits.of(image, 5), Limits(5, devexcl_plan.PROGRAM_SECONDS))
		image.manifest['debug'] = True
		self.write('settings', 'timeout=90\n')
		self.assertEqual(Limits.of(image), Limits(600, 900, 2 * devexcl_plan.CELL_SECONDS))


class BatchTest(QuietTest):
	"""Many cells in one run of a program."""

	def collect(self, script: dict[str, list], patterns: tuple[str, ...] = (), guests: int = 1,
		    modules: tuple[str, ...] = ()) -> dict[str, str]:
		self.script = {'many.list': ['list cells'], 'cells': ['many'], **script}
		image = mock.Mock(programs=['many'], modules=list(modules), manifest={'debug': False})
		self.seen: list[str] = []
		self.collector = Collector(image, ('tcg', 'max'), self.folder, limits=Limits(), patterns=list(patterns), guests=guests,
					   progress=lambda collector, name: self.seen.append(f'{collector.position} {name}'))
		with mock.patch.object(devexcl_collect, 'Guest', lambda *args, **kwargs: FakeGuest(self.script)):
			with contextlib.suppress(KeyboardInterrupt):
				self.collector.run()
		self.results = {result.name: result for result in devexcl_judge.judge(self.collector.attempts)}
		self.assertEqual(list(self.results), list(dict.fromkeys(item.name for item in self.collector.attempts)))
		return {name.replace('many.', ''): result.verdict for name, result in self.results.items()
			if name != 'kernel.boot'}

	def batches(self) -> list[str]:
		return [' '.join(name.replace('many.', '') for name in batch) for batch in self.script['batches']]

	ALL = {'a': 'pass', 'b': 'pass', 'c': 'pass', 'd.half': 'pass'}

	def test_one_exec(self) -> None:
		self.assertEqual(self.collect({}), self.ALL)
		self.assertEqual((self.batches(), self.collector.boots), (['a b c d.half'], 1))
		self.assertEqual(self.seen, ['1 many.a', '2 many.b', '3 many.c', '4 many.d.half'])
		self.assertEqual([result.seconds for result in self.results.values()][1:], [0.5] * 4)
		self.assertEqual(self.results['many.b'].details, ['#  RUN           many.b ...', 'ok 2 many.b'])
		self.assertEqual([item.name for item in devexcl_attempt.read_record(self.folder)],
				 ['kernel.boot', 'many.a', 'many.b', 'many.c', 'many.d.half'])

	def test_size(self) -> None:
		with mock.patch.object(devexcl_plan, 'CELLS_AT_ONCE', 3):
			self.assertEqual(self.collect({}), self.ALL)
		self.assertEqual(self.collector.boots, 1)
		# One that is left over is run like any other test.
		self.assertEqual(self.batches(), ['a b c'])

	def test_globs(self) -> None:
		self.assertEqual(self.collect({}, ('*.half', 'many.a')), {'a': 'pass', 'd.half': 'pass'})
		self.assertEqual((self.batches(), self.collector.excluded), (['a d.half'], {}))

	def test_failure(self) -> None:
		self.assertEqual(self.collect({'many.b': ['fail']}), {**self.ALL, 'b': 'fail'})
		self.assertEqual(self.results['many.b'].reason, 'why it fails')
		self.assertEqual(self.collector.boots, 1)

	def test_crash(self) -> None:
		verdicts = self.collect({'many.b': ['panic']})
		# The fake knows "many.b" alone as a test of its own: the second panic is that one's.
		self.assertEqual(verdicts, {**self.ALL, 'b': 'crash'})
		self.assertEqual(self.results['many.b'].reason, 'crash (2 of 2): Kernel panic - not syncing: x')
		self.assertEqual((self.batches(), self.collector.boots), (['a b c d.half', 'c d.half'], 3))
		self.assertEqual(self.collector.done, 4)

	def test_crash_once(self) -> None:
		self.assertEqual(self.collect({'many.b': ['panic', 'pass']}), {**self.ALL, 'b': 'fail'})
		self.assertEqual(self.results['many.b'].reason, 'crash, not reproduced: Kernel panic - not syncing: x')
		self.assertEqual(self.collector.boots, 2)

	def test_crash_that_takes_output_with_it(self) -> None:
		"""The console says who was running; who lost its result is run again."""
		self.assertEqual(self.collect({'many.b': ['lost output', 'pass'], 'many.c': ['panic', 'pass']}),
				 {**self.ALL, 'c': 'fail'})
		self.assertEqual(self.batches(), ['a b c d.half', 'b d.half'])

	def settle(self, *output: str, console: tuple[str, ...] = ()) -> dict[str, tuple[list[str], list[str]]]:
		"""A batch of three tests that its program has ended in good order: what is kept, verdicts and outputs."""
		whole = Attempt('one', '', 1, output=list(output), console=list(console), how='exit')
		attempts = devexcl_batch.Batch(whole, ['one.a', 'one.b', 'one.c']).settle()
		return {item.test: ([result.verdict for result in devexcl_judge.judge_attempt(item)], item.output) for item in attempts}

	RAN_A = ('TAP version 13', '1..1', '# Starting 1 tests from 1 test cases.', '#  RUN           one.a ...',
		 '#            OK  one.a', 'ok 1 one.a', '# PASSED: 1 / 1 tests passed.', '# Totals: pass:1 fail:0')
	KEPT_A = (['pass'], ['#  RUN           one.a ...', '#            OK  one.a', 'ok 1 one.a'])

	def test_stopped_because_of_complaint(self) -> None:
		"""Nobody is blamed for not having been run; the rest is run again."""
		self.assertEqual(self.settle(*self.RAN_A, '# stopped: the kernel has complained'), {'one.a': self.KEPT_A})
		console = ('devexcl-test: cell one.a', 'WARNING: x at y.c:1', '---[ end trace 0 ]---')
		kept = self.settle(*self.RAN_A, '# stopped: the kernel has complained', console=console)
		self.assertEqual({name: verdicts for name, (verdicts, _) in kept.items()}, {'one.a': ['fail']})

	def test_a_harness_for_each(self) -> None:
		"""What each harness says of itself is not part of any test."""
		ran_b = [line.replace('one.a', 'one.b') for line in self.RAN_A]
		kept = self.settle(*self.RAN_A, *ran_b, *(line.replace('one.a', 'one.c') for line in self.RAN_A))
		self.assertEqual((list(kept), kept['one.a']), (['one.a', 'one.b', 'one.c'], self.KEPT_A))

	def test_many_at_once(self) -> None:
		listing = ['# MANY AT ONCE', '# FIXTURE            VARIANT                   TEST', 'one' + ' ' * 44 + 'a']
		self.assertTrue(devexcl_batch.takes_many(listing))
		self.assertFalse(devexcl_batch.takes_many(listing[1:]))
		self.assertEqual(devexcl_ktap.parse_list(listing), ['one.a'])

	def test_hang(self) -> None:
		self.assertEqual(self.collect({'many.c': ['hang']}), {**self.ALL, 'c': 'hang'})
		self.assertEqual((self.batches(), self.collector.boots), (['a b c d.half'], 2))

	def test_timeout_and_signal(self) -> None:
		for behaviour, verdict, reason in (('timeout', 'hang', 'no end within 60 s'), ('dies', 'fail', 'killed by SIGSEGV')):
			with self.subTest(behaviour=behaviour):
				self.assertEqual(self.collect({'many.b': [behaviour]}), {**self.ALL, 'b': verdict})
				self.assertIn(reason, self.results['many.b'].reason)
				self.assertEqual((self.batches(), self.collector.boots), (['a b c d.half', 'c d.half'], 1))

	def test_splat(self) -> None:
		"""What comes after it is done again, in a fresh guest."""
		self.assertEqual(self.collect({'many.b': ['splat'], 'many.c': ['panic', 'pass']}), {**self.ALL, 'b': 'fail'})
		self.assertEqual(self.results['many.b'].reason, 'kernel log: WARNING: x')
		self.assertEqual((self.batches(), self.collector.boots), (['a b c d.half', 'c d.half'], 2))
		self.assertEqual(self.results['many.c'].console, [])

	def test_exits_in_the_middle(self) -> None:
		self.assertEqual(self.collect({'many.b': ['exits']}), {**self.ALL, 'c': 'fail'})
		self.assertEqual(self.results['many.c'].reason, 'exit status 0 without a result')

	def test_does_not_start(self) -> None:
		self.assertEqual(set(self.collect({'many.a': ['no start']}).values()), {'fail'})
		self.assertEqual(self.results['many.c'].reason, 'bailed out: the device does not work')
		self.assertEqual(self.batches(), ['a b c d.half'])

	def test_interrupted(self) -> None:
		self.assertEqual(self.collect({'many.c': ['interrupt']}), {'a': 'pass', 'b': 'pass'})

	def test_two_guests(self) -> None:
		"""Who did what must not be seen in the results."""
		with mock.patch.object(devexcl_plan, 'FEWEST_AT_ONCE', 2):
			self.assertEqual(self.collect({}, guests=2, modules=('x',)),
					 {**self.ALL, 'module.unload': 'pass', 'module.reload': 'pass'})
		self.assertEqual(list(self.results), ['kernel.boot', 'many.a', 'many.b', 'many.c', 'many.d.half', 'module.unload',
						      'module.reload'])
		self.assertEqual((sorted(self.batches()), self.collector.boots), (['a b', 'c d.half'], 2))
		self.assertEqual([item.name for item in devexcl_attempt.read_record(self.folder)],
				 [item.name for item in self.collector.attempts])

	def test_one_of_two_guests_crashes(self) -> None:
		with mock.patch.object(devexcl_plan, 'FEWEST_AT_ONCE', 2):
			self.assertEqual(self.collect({'many.a': ['panic'], 'many.c': ['dies']}, guests=2),
					 {**self.ALL, 'a': 'crash', 'c': 'fail'})
		self.assertEqual(self.results['many.a'].reason, 'crash (2 of 2): Kernel panic - not syncing: x')
		# The other one may have done the rest by then.
		self.assertIn(self.collector.boots, (3, 4))

	def test_what_ends_one_guest_ends_all(self) -> None:
		with mock.patch.object(devexcl_plan, 'FEWEST_AT_ONCE', 2):
			verdicts = self.collect({'many.d.half': ['interrupt']}, guests=2)
		self.assertEqual(verdicts['c'], 'pass')
		self.assertNotIn('d.half', verdicts)
		self.assertFalse(self.collector.complete)

	def test_few_jobs_for_two_guests(self) -> None:
		self.collect({}, patterns=('many',), guests=2)
		self.assertEqual(self.collector.boots, 1)

	def test_subset(self) -> None:
		names = ('m.cut.base', 'm.cut.base.half', 'm.cut.thp', 'm.cut.swapped_in', 'm.grow.stack', 'm.grow.heap')
		jobs = [Job('fault', 'fault.a', ()), Job('contend', 'contend.a', ()), Job('trace', '', ()),
			*(Job('aperture_move', f'aperture_move.move.{name}.a', ()) for name in ('pfn', 'mixed')),
			*(Job('m', name, (), cell=True) for name in names), *devexcl_plan.LAST_JOBS]
		self.assertEqual([job.name for job in devexcl_plan.subset(jobs)], [
			'fault.a', 'trace', 'aperture_move.move.mixed.a', 'm.cut.base', 'm.grow.stack', 'module.unload', 'module.kmemleak', 'module.reload'])
		for word in (*devexcl_plan.SUBSET_BACKINGS, *devexcl_plan.SUBSET_TESTS):
			self.assertIn(word, devexcl_plan.SUBSET)

	def test_queue(self) -> None:
		jobs = [Job('one', 'one.a', ()), *(Job('many', f'many.{at}', (), cell=True, batched=True) for at in range(300)),
			Job('more', 'more.a', (), cell=True, batched=True)]
		queue = Queue(jobs, guests=2)
		first, second = queue.take(), queue.take()
		self.assertEqual([[job.place for job in jobs][::len(jobs) - 1 or 1] for jobs in (first, second)], [[1], [2, 76]])
		queue.put_back(second[1:])
		taken = []
		while len(queue):
			taken.append(queue.take())
		self.assertEqual([job.place for jobs in taken for job in jobs], list(range(3, 303)))
		self.assertEqual([len(jobs) for jobs in taken[-3:]], [10, 10, 1])
		self.assertEqual({job.program for job in taken[-1]}, {'more'})
		self.assertEqual(queue.take(), [])

	def test_guests_at_once(self) -> None:
		for kilobytes, cpus, guests in ((64 << 20, 2, 2), (64 << 20, 3, 3), (64 << 20, 64, 4), (5 << 20, 8, 1), (1 << 20, 8, 1), (64 << 20, 1, 1)):
			with mock.patch.object(Path, 'read_text', return_value=f'x\nMemAvailable: {kilobytes} kB\n'), \
			     mock.patch.object(os, 'sched_getaffinity', return_value=set(range(cpus))):
				self.assertEqual(devexcl_qemu.guests_at_once(), guests)

	def test_fault_is_charged_to_the_last(self) -> None:
		whole = Attempt('many', '', 1, how='exit', faults=['module x still has 1 references'],
				output=['#  RUN           many.a ...', 'ok 1 many.a', '#  RUN           many.b ...', 'ok 2 many.b'])
		results = devexcl_judge.judge(devexcl_batch.Batch(whole, ['many.a', 'many.b']).settle())
		self.assertEqual([(result.name, result.verdict) for result in results], [('many.a', 'pass'), ('many.b', 'fail')])
		self.assertIn('note: found after 2 cells', results[1].details[-1])

	def test_garbage(self) -> None:
		for output in ([], ['garbage'], ['#  RUN           other ...', 'ok 1 other'], ['ok 1', 'ok 2', 'ok 3']):
			for how in ('exit', CRASH, HANG, 'signal', 'stuck'):
				with self.subTest(output=output, how=how):
					whole = Attempt('many', '', 1, output=output, how=how)
					self.assertTrue(devexcl_batch.Batch(whole, ['many.a', 'many.b']).settle())

	def test_lists(self) -> None:
		self.assertEqual(devexcl_batch.parse_list(['noise', '# TESTS', 'm.a', '', '# x', ' m.b ']), ['m.a', 'm.b'])
		self.assertIsNone(devexcl_batch.parse_list(['%-20s %-25s %s' % ('# FIXTURE', 'VARIANT', 'TEST')]))
		self.assertEqual(devexcl_batch.parse_excluded(['# excluded: 65 cells: a single page has no half', '# excluded: x']),
				 {'a single page has no half': 65})

	def test_sums(self) -> None:
		self.collect({})
		self.assertEqual(self.collector.excluded, {'many': {'no half': 7, 'not here': 2}})
		results = list(self.results.values())
		for result in results[1:]:
			result.verdict, result.reason = 'skip', 'no such machine'
		devexcl_report.print_summary(results, {**ReportTest.FACTS, 'excluded': self.collector.excluded},
					     devexcl_host.Timings(), self.folder)
		said = self.said.getvalue()
		self.assertIn('skip   4 tests (many 4): no such machine\n', said)
		self.assertIn('Matrix:  13 cells: 0 run, 4 skipped, 9 excluded\n       | 7 excluded: no half\n', said)


class SelfCheckTest(QuietTest):
	HEADER = ('/*\n * About all of them. The kernel\n * stays safe.\n */\n/* Look away. */\n'
		  '#define DEVEXCL_BROKEN_BLIND\t(1U << 0)\n/* Do not\n * let go. */\n#define DEVEXCL_BROKEN_KEEP (1U << 5)\n')

	def check(self, script: dict[str, list]) -> tuple[list[devexcl_selfcheck.Finding], devexcl_selfcheck.SelfCheck]:
		self.script = {'many.list': ['list cells'], 'cells': ['many'], **script}
		image = mock.Mock(programs=['many'], modules=[], manifest={'debug': False})
		collector = Collector(image, ('tcg', 'max'), self.folder, limits=Limits(), patterns=['many.[abc]'])
		check = devexcl_selfcheck.SelfCheck(collector, devexcl_selfcheck.read_modes(self.HEADER))
		with mock.patch.object(devexcl_collect, 'Guest', lambda *args, **kwargs: FakeGuest(self.script)):
			return check.check(), check

	def test_modes(self) -> None:
		modes = devexcl_selfcheck.read_modes(self.HEADER)
		self.assertEqual([(mode.name, mode.value, mode.text) for mode in modes],
				 [('BLIND', 1, 'Look away.'), ('KEEP', 32, 'Do not let go.')])
		with self.assertRaises(DevexclError):
			devexcl_selfcheck.read_modes('')

	def test_ours(self) -> None:
		modes = devexcl_selfcheck.read_modes(devexcl_selfcheck.HEADER.read_text(encoding='utf-8'))
		self.assertEqual([mode.value for mode in modes], [1 << bit for bit in range(len(modes))])
		self.assertTrue(all(mode.text.endswith('.') for mode in modes))

	def test_noticed(self) -> None:
		"""Without a mode first, then with each: what fails without one notices nothing."""
		found, check = self.check({'many.a': ['pass', 'fail', 'pass'], 'many.b': ['fail'], 'many.c': ['pass', 'pass', 'timeout']})
		self.assertEqual([finding.noticed for finding in found], [['many.a'], ['many.c']])
		self.assertEqual([finding.bad for finding in found], [False, False])
		lines = devexcl_selfcheck.report(found, '--kernel 6.12', check.plain)
		self.assertIn("        again: tools/testing/devexcl/devexcl.py run --kernel 6.12 --append DEVEXCL_BROKEN=0x20 "
			      "--tests many.c", lines)
		self.assertEqual(len(devexcl_attempt.read_record(self.folder)), 3)

	def test_nobody_notices(self) -> None:
		found, check = self.check({'many.a': ['pass', 'pass', 'fail']})
		self.assertEqual([finding.bad for finding in found], [True, False])
		self.assertIn('        No test notices that.', devexcl_selfcheck.report(found, '', check.plain))
		row = devexcl_check.selfcheck_row('7.3', found, 1.0)
		self.assertEqual((row.passed, row.failed), (1, 1))

	def test_harm_to_the_kernel(self) -> None:
		"""The other modes are tried all the same, in a fresh guest if need be."""
		for harm in ('panic', 'splat'):
			with self.subTest(harm=harm):
				found, _ = self.check({'many.a': ['pass', 'fail', 'fail'], 'many.b': ['pass', harm, 'pass']})
				self.assertEqual([finding.bad for finding in found], [True, False])
				self.assertEqual(found[1].noticed, ['many.a'])

	def test_examples(self) -> None:
		mode = devexcl_selfcheck.read_modes(self.HEADER)[0]
		finding = devexcl_selfcheck.Finding(mode, ['a.1', 'a.2', 'b.1', 'a.3'], [])
		self.assertEqual(devexcl_selfcheck.examples_of(finding), ['a.1', 'b.1', 'a.2'])


class ChannelTest(unittest.TestCase):
	def test_lines(self) -> None:
		reader = devexcl_qemu.LineReader()
		self.assertEqual(reader.feed(b'one\r\ntw'), ['one'])
		self.assertEqual(reader.feed(b'o\n\x1b[31mred\x1b[0m\nrest'), ['two', 'red'])
		self.assertEqual(reader.rest(), ['rest'])
		self.assertEqual(len(reader.feed(b'x' * (1 << 17))), 1)

	def test_escapes(self) -> None:
		self.assertEqual(devexcl_qemu.unescape('a\\x5cb\\x0a\\xc3\\xa9'), 'a\\b\né')
		self.assertEqual(devexcl_qemu.unescape('\\xff\\x'), '\ufffd\\x')
		self.assertEqual(devexcl_qemu.unescape(devexcl_qemu.escape('a b\\ü')), 'a b\\ü')

	def test_guest_escapes_alike(self) -> None:
		"""init.c writes what we read: its version of the protocol is ours."""
		text = (HERE / 'init.c').read_text(encoding='utf-8')
		self.assertIn(f'#define CHANNEL_NAME		"{devexcl_qemu.CHANNEL_NAME}"', text)


# ---- reports ----------------------------------------------------------------------------------------


class ReportTest(QuietTest):
	FACTS = {'release': '6.12.1', 'origin': 'KERNEL=6.12', 'variant': 'module', 'accelerator': 'tcg'}

	def results(self) -> list:
		attempts = [Attempt(**json.loads(line)) for line in lines_of('demo-6.12.record.jsonl')]
		return devexcl_judge.judge(attempts, [KnownBug('demo.global.dies', '-', '-', 'abc', 'text')], '6.12.1')

	def test_machine_formats(self) -> None:
		results = self.results()
		devexcl_report.write_all(results, self.FACTS, devexcl_host.Timings(), self.folder)
		data = json.loads((self.folder / 'results.json').read_text(encoding='utf-8'))
		self.assertEqual(data['counts']['crash'], 3)
		suites = ElementTree.parse(self.folder / 'junit.xml').getroot()
		self.assertEqual(len(suites.findall('.//testcase')), len(results))
		self.assertEqual(len(suites.findall('.//failure')), sum(result.bad for result in results))
		text = (self.folder / 'raw.ktap').read_text(encoding='utf-8')
		self.assertTrue(text.startswith('KTAP version 1\n'))
		self.assertIn('\n  # Subtest: demo\n', text)
		self.assertIn('not ok 2 demo', text)
		self.assertRegex(text, r'ok \d+ demo.global.dies # XFAIL text \(abc\)')
		self.assertRegex(text, r'ok \d+ demo.global.skips # SKIP no such machine')

	def test_summary(self) -> None:
		facts = {**self.FACTS, 'guests': 2, 'boots': 3, 'cpu_seconds': 80.4}
		devexcl_report.print_summary(self.results(), facts, devexcl_host.Timings(), self.folder)
		said = self.said.getvalue()
		self.assertIn('Guests:  2 side by side, 3 boots, 80 s of CPU time in all\n', said)
		self.assertIn('Repeat:  make run KERNEL=6.12 TESTS=', said)
		self.assertIn('crash  demo.global.panics: crash (2 of 2): Kernel panic - not syncing', said)
		self.assertIn('3 fail, 3 crash, 1 hang, 1 known, 1 skip', said)

	def test_repeat_names_the_tests(self) -> None:
		bad = [devexcl_judge.Result('fork.a', 'fork', 'fail')]
		self.assertEqual(devexcl_report.repeat_command(bad, 'KERNEL=7.3 BUILTIN=1'),
				 'make run KERNEL=7.3 BUILTIN=1 TESTS=fork.a')


class MatrixTest(QuietTest):
	"""Two kernels, two operations on two kinds of memory."""

	LAYOUT = [['m.cut.base', ''], ['m.cut.base.half', ''], ['m.cut.base.neighbours', ''], ['m.cut.ksm', 'not merged'],
		  ['m.glue.base', ''], ['m.glue.base.half', ''], ['m.glue.ksm', ''], ['m.never.base', '']]

	def run_of(self, release: str, **verdicts: str) -> devexcl_matrix.Run:
		results = [devexcl_judge.Result(name.replace('__', '.'), name.split('__')[0], verdict, reason='<why>',
						details=['& said'], console=['WARNING: x'], bug='a bug' if verdict == 'known' else '')
			   for name, verdict in verdicts.items()]
		return devexcl_matrix.Run({**ReportTest.FACTS, 'release': release, 'layouts': {'m': self.LAYOUT}}, results)

	def matrix(self) -> devexcl_matrix.Matrix:
		old = self.run_of('6.1.9', m__cut__base='pass', m__cut__base__half='fail', m__cut__base__neighbours='skip',
				  m__glue__base='known', m__glue__ksm='crash', abi__x='fail')
		new = self.run_of('7.3.4', m__cut__base='pass', m__cut__base__half='pass', m__glue__base='skip', abi__x='pass',
				  abi__y='pass')
		return devexcl_matrix.put_together(devexcl_matrix.in_order([new, old]))

	def test_put_together(self) -> None:
		matrix = self.matrix()
		self.assertEqual([run.label for run in matrix.runs], ['6.1', '7.3'])
		self.assertEqual(matrix.backings, ['base', 'ksm'])
		rows = {name: [places[backing].verdict(run) for backing in matrix.backings for run in (0, 1)]
			for name, places in matrix.subjects['m'].items()}
		self.assertEqual(rows, {'cut': ['fail', 'pass', 'excluded', 'excluded'], 'glue': ['known', 'skip', 'crash', 'missing']})
		place = matrix.subjects['m']['cut']['base']
		self.assertEqual((place.text(0), place.text(1)), ('all pass, half fail, neighbours skip', 'pass (all, half)'))
		self.assertEqual([result and result.verdict for result in matrix.others['abi']['abi.y']], [None, 'pass'])
		self.assertEqual(devexcl_matrix.tally(matrix.places(), [0]), {'pass': 1, 'fail': 1, 'skip': 1, 'known': 1, 'crash': 1})

	def test_worst(self) -> None:
		order = ('pass', 'skip', 'known', 'fixed', 'fail', 'hang', 'crash')
		for better, worse in zip(order, order[1:]):
			holds = {hold: devexcl_judge.Result('m.a.b', 'm', verdict) for hold, verdict in (('all', better), ('half', worse))}
			self.assertEqual(devexcl_matrix.Place('m.a.b', [holds]).verdict(0), worse)
		self.assertEqual(sorted(order), sorted(devexcl_matrix.WORST_FIRST))

	def test_names(self) -> None:
		self.assertEqual(devexcl_matrix.split_name('m.a.b'), ('m', 'a', 'b', 'all'))
		self.assertEqual(devexcl_matrix.split_name('m.a.b.half'), ('m', 'a', 'b', 'half'))
		self.assertIsNone(devexcl_matrix.split_name('m.a.b.c'))
		self.assertIsNone(devexcl_matrix.split_name('m.a'))
		lines = ['# TESTS', 'm.a.x', '# without m.a.y: because', 'm.b.x', '# excluded: 3 cells: because']
		self.assertEqual(devexcl_batch.parse_layout(lines), [['m.a.x', ''], ['m.a.y', 'because'], ['m.b.x', '']])
		self.assertEqual(devexcl_batch.parse_list(lines), ['m.a.x', 'm.b.x'])
		lines.insert(1, '# not of the matrix')
		self.assertEqual(devexcl_batch.parse_layout(lines), [])
		self.assertEqual(devexcl_batch.parse_list(lines), ['m.a.x', 'm.b.x'])

	def test_text(self) -> None:
		matrix = self.matrix()
		self.assertEqual(devexcl_matrix.as_text(matrix, 0, 80)[:7],
				 ['      b', '      a k', '      s s', '      e m', 'm', ' cut  F -', ' glue k C'])
		self.assertEqual(devexcl_matrix.as_text(matrix, 1, 80)[5:7], [' cut  . -', ' glue s'])
		self.assertEqual(devexcl_matrix.as_text(matrix, 1, 80, short=True), ['m: 2 operations: 2 pass, 1 skip'])
		self.assertIn('7.3.4', '\n'.join(devexcl_matrix.all_as_text(matrix, 80)))
		with mock.patch.object(matrix, 'backings', [f'backing{number}' for number in range(30)]):
			for width in (120, 60, 40):
				lines = devexcl_matrix.as_text(matrix, 0, width)[:-1]
				self.assertLessEqual(max(map(len, lines)), width)

	def test_page(self) -> None:
		page = devexcl_html.page(self.matrix())
		self.assertIn('<a class="box fail" href="#m.cut.base" title="6.1: all pass, half fail, neighbours skip\n&lt;why&gt;">F</a>', page)
		self.assertIn('title="m.cut.ksm: excluded, not merged"', page)
		self.assertIn('<section id="m.cut.base">', page)
		self.assertIn('make run KERNEL=6.12 TESTS=m.cut.base.half', page)
		self.assertIn('&amp; said\nWARNING: x', page)
		self.assertNotIn('never', page)
		self.assertNotRegex(page, r'(src|href)="(?!#)')
		anchors = set(re.findall(r'href="#([^"]+)"', page[:page.index('<script>')]))
		self.assertEqual(anchors - set(re.findall(r' id="([^"]+)"', page)), set())
		self.assertEqual([(tag, page.count(f'<{tag}>') + page.count(f'<{tag} ') - page.count(f'</{tag}>'))
				  for tag in ('table', 'tbody', 'tr', 'td', 'a', 'div', 'section', 'span')
				  if page.count(f'<{tag}>') + page.count(f'<{tag} ') != page.count(f'</{tag}>')], [])

	def test_page_does_not_grow_without_end(self) -> None:
		matrix = self.matrix()
		with mock.patch.object(devexcl_html, 'MOST_BYTES', 10):
			page = devexcl_html.page(matrix)
		self.assertNotIn('WARNING: x', page)
		self.assertIn('&lt;why&gt;', page)

	def test_command(self) -> None:
		for run in self.matrix().runs:
			folder = self.folder / 'check' / run.label
			folder.mkdir(parents=True)
			devexcl_report.write_all(run.results, run.facts, devexcl_host.Timings(), folder)
		with mock.patch.object(signal, 'signal'), contextlib.redirect_stderr(self.said):
			output = self.folder / 'out.html'
			self.assertEqual(devexcl.main(['matrix', '-o', str(output), str(self.folder / 'check')]), OK)
			self.assertIn('Linux 7.3.4', output.read_text(encoding='utf-8'))
			self.assertEqual(devexcl.main(['matrix', '--text', str(self.folder / 'check/6.1')]), OK)
			self.assertIn(' glue k C', self.said.getvalue())
			self.assertEqual(devexcl.main(['matrix', str(self.folder)]), CANNOT_RUN)


class ApertureDeviceTest(QuietTest):
	def devices(self, listing: str) -> tuple[str, ...]:
		devexcl_qemu.aperture_device.cache_clear()
		self.addCleanup(devexcl_qemu.aperture_device.cache_clear)
		with mock.patch.object(devexcl_qemu.shutil, 'which', return_value='/bin/qemu'), \
				mock.patch.object(devexcl_qemu, 'output_of', return_value=listing):
			return devexcl_qemu.aperture_device('qemu')

	def test_qemu_has_one(self) -> None:
		self.assertIn('ivshmem-plain,memdev=aperture', self.devices('name "ivshmem-plain", bus PCI\n'))

	def test_qemu_has_none(self) -> None:
		self.assertEqual(self.devices('name "virtio-serial-pci", bus PCI\n'), ())


# ---- configuration ------------------------------------------------------------------------------------


class ConfigTest(QuietTest):
	def test_missing_options(self) -> None:
		fragment = self.write('x.config', 'CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n'
				      '# optional: 6.1 has no such thing\nCONFIG_D=y\nCONFIG_E="text"\nCONFIG_F=8\n')
		wishes = devexcl_config.wanted([fragment])
		config = devexcl_config.parse_config('CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_E="text"\n# CONFIG_F is not set\n')
		needed, optional = devexcl_config.missing(config, wishes)
		self.assertEqual(needed, ['CONFIG_B=m (x.config) became y', 'CONFIG_F=8 (x.config) became n'])
		self.assertEqual(optional, ['CONFIG_D=y (x.config) became n: 6.1 has no such thing'])

	def test_last_fragment_wins(self) -> None:
		one, two = self.write('1.config', 'CONFIG_A=m\n'), self.write('2.config', 'CONFIG_A=y\n')
		self.assertEqual(devexcl_config.wanted([one, two])['CONFIG_A'].value, 'y')

	def test_ours(self) -> None:
		base = devexcl_config.wanted(devexcl_config.fragments(False, False))
		self.assertEqual(base['CONFIG_TEST_DEVEXCL'].value, 'm')
		self.assertEqual(base['CONFIG_TEST_DEVEXCL_APERTURE'].value, 'm')
		builtin = devexcl_config.wanted(devexcl_config.fragments(True, True))
		self.assertEqual(builtin['CONFIG_TEST_DEVEXCL'].value, 'y')
		self.assertEqual(builtin['CONFIG_TEST_DEVEXCL_APERTURE'].value, 'y')
		self.assertEqual(builtin['CONFIG_KASAN'].value, 'y')

	def test_each_option_has_one_place(self) -> None:
		tests, guest = (devexcl_config.parse_fragment(path) for path in devexcl_config.fragments(False, False))
		names = [wish.name for wish in tests]
		self.assertEqual(names, sorted(set(names)))
		self.assertFalse(set(names) & {wish.name for wish in guest})


# ---- trees ----------------------------------------------------------------------------------------------


class TreeTest(QuietTest):
	"""With a kernel tree that is as small as it can be."""

	def make_tree(self, name: str = 'linux') -> Path:
		for path, text in (('Makefile', 'VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 3\n'), ('Kconfig', ''),
				   ('mm/memory.c', 'int a;\n'), ('arch/x86/Makefile', ''), ('.gitignore', '*.o\n.*\n!.gitignore\n'),
				   ('include/linux/rmap.h', 'make_device_exclusive\n'),
				   ('lib/Kconfig.debug', 'config TEST_HMM\n\ttristate "x"\n\thelp\n\t  y\n\nconfig TEST_LAST\n'),
				   ('lib/Makefile', 'obj-$(CONFIG_TEST_HMM) += test_hmm.o\nobj-y += last.o\n'),
				   ('tools/testing/selftests/Makefile', 'TARGETS += cpu-hotplug\nTARGETS += zram\n')):
			self.write(f'{name}/{path}', text)
		return self.folder / name

	def git(self, tree: Path, *command: str) -> None:
		subprocess.run(['git', '-c', 'user.name=x', '-c', 'user.email=x@x', '-C', str(tree), *command], check=True,
			       stdout=subprocess.DEVNULL)


class OverlayTest(TreeTest):
	def make_repo(self) -> Path:
		for path in ('lib/test_devexcl.c', 'include/uapi/linux/test_devexcl_uapi.h', 'Kconfig.debug',
			     'tools/testing/selftests/devexcl/Makefile', 'lib/test_devexcl.o'):
			self.write(f'repo/{path}', f'{path}\n')
		self.write('repo/.gitignore', '*.o\n')
		return self.folder / 'repo'

	def overlay(self) -> devexcl_overlay.Overlay:
		return devexcl_overlay.Overlay(self.folder / 'repo')

	def test_apply_twice(self) -> None:
		tree = self.make_tree()
		self.make_repo()
		self.assertIn('lib/test_devexcl.c', self.overlay().apply(tree))
		before = {path: path.stat().st_mtime_ns for path in tree.rglob('*') if path.is_file()}
		self.assertEqual(self.overlay().apply(tree), [])
		after = {path: path.stat().st_mtime_ns for path in tree.rglob('*') if path.is_file()}
		before.pop(tree / devexcl_overlay.RECORD)
		after.pop(tree / devexcl_overlay.RECORD)
		self.assertEqual(before, after)
		self.assertFalse((tree / 'lib/test_devexcl.o').exists())
		self.assertEqual((tree / 'lib/Makefile').read_text(encoding='utf-8').splitlines(), [
			'obj-$(CONFIG_TEST_HMM) += test_hmm.o', 'obj-$(CONFIG_TEST_DEVEXCL) += test_devexcl.o',
			'CFLAGS_test_devexcl.o += -I$(src)', 'obj-y += last.o'])
		self.assertRegex((tree / 'lib/Kconfig.debug').read_text(encoding='utf-8'),
				 r'y\n\nsource "lib/Kconfig.devexcl"\n\nconfig TEST_LAST')

	def test_only_what_changed_is_written(self) -> None:
		tree, repo = self.make_tree(), self.make_repo()
		self.overlay().apply(tree)
		(repo / 'lib/test_devexcl.c').write_text('changed\n', encoding='utf-8')
		self.assertEqual(self.overlay().apply(tree), ['lib/test_devexcl.c'])

	def test_vanished(self) -> None:
		tree, repo = self.make_tree(), self.make_repo()
		self.overlay().apply(tree)
		(repo / 'lib/test_devexcl.c').unlink()
		self.overlay().apply(tree)
		self.assertFalse((tree / 'lib/test_devexcl.c').exists())
		self.assertNotIn('DEVEXCL', (tree / 'lib/Makefile').read_text(encoding='utf-8'))

	def test_second_module(self) -> None:
		tree, repo = self.make_tree(), self.make_repo()
		(repo / 'lib/test_devexcl_aperture.c').write_text('x', encoding='utf-8')
		self.overlay().apply(tree)
		self.assertIn('obj-$(CONFIG_TEST_DEVEXCL_APERTURE) += test_devexcl_aperture.o',
			      (tree / 'lib/Makefile').read_text(encoding='utf-8'))

	def test_hashes(self) -> None:
		repo = self.make_repo()
		before = self.overlay()
		(repo / 'tools/testing/selftests/devexcl/Makefile').write_text('x', encoding='utf-8')
		after = self.overlay()
		self.assertEqual(before.kernel_hash(), after.kernel_hash())
		self.assertNotEqual(before.tests_hash(), after.tests_hash())

	def test_not_a_tree(self) -> None:
		self.make_repo()
		with self.assertRaisesRegex(DevexclError, 'not a kernel tree'):
			self.overlay().apply(self.folder)


class SourceTest(TreeTest):
	def snapshot(self, tree: Path) -> dict:
		return {path: (path.lstat().st_mtime_ns, path.lstat().st_ctime_ns, path.lstat().st_size)
			for path in [tree, *tree.rglob('*')]}

	def sync(self, tree: Path) -> tuple[str, Path]:
		source = devexcl_source.user_source(tree)
		return source.identity, source.tree

	def test_follows_the_tree_and_leaves_it_alone(self) -> None:
		for git in (False, True):
			with self.subTest(git=git):
				tree = self.make_tree(f'linux-{git}')
				if git:
					self.git(tree, 'init', '-q')
					self.git(tree, 'add', '-A')
					self.git(tree, 'commit', '-qm', 'x')
				before = self.snapshot(tree)
				first, copy = self.sync(tree)
				self.assertEqual(self.snapshot(tree), before)
				self.assertEqual((copy / 'mm/memory.c').stat().st_mtime_ns, (tree / 'mm/memory.c').stat().st_mtime_ns)
				self.assertEqual(self.sync(tree)[0], first)

				(tree / 'mm/memory.c').write_text('int b;\n', encoding='utf-8')
				(tree / 'mm/new.c').write_text('int c;\n', encoding='utf-8')
				(tree / 'lib/Kconfig.debug').unlink()
				second, _ = self.sync(tree)
				self.assertNotEqual(first, second)
				self.assertEqual((copy / 'mm/memory.c').read_text(encoding='utf-8'), 'int b;\n')
				self.assertTrue((copy / 'mm/new.c').is_file())
				self.assertFalse((copy / 'lib/Kconfig.debug').exists())

	def test_what_concerns_the_configuration(self) -> None:
		tree = self.make_tree()
		first = devexcl_source.user_source(tree)
		(tree / 'mm/memory.c').write_text('int b;\n', encoding='utf-8')
		second = devexcl_source.user_source(tree)
		self.assertNotEqual(first.identity, second.identity)
		self.assertEqual(first.config_identity, second.config_identity)
		(tree / 'Kconfig').write_text('config A\n', encoding='utf-8')
		self.assertNotEqual(devexcl_source.user_source(tree).config_identity, second.config_identity)

	def test_same_contents_are_not_written(self) -> None:
		tree = self.make_tree()
		first, copy = self.sync(tree)
		before = (copy / 'mm/memory.c').stat().st_mtime_ns
		os.utime(tree / 'mm/memory.c')
		second, _ = self.sync(tree)
		self.assertEqual((first, before), (second, (copy / 'mm/memory.c').stat().st_mtime_ns))

	def test_an_older_file_is_newer_in_the_copy(self) -> None:
		tree = self.make_tree()
		_, copy = self.sync(tree)
		start = time.time() - 1
		(tree / 'mm/memory.c').write_text('int z;\n', encoding='utf-8')
		os.utime(tree / 'mm/memory.c', (1, 1))
		self.sync(tree)
		self.assertEqual((copy / 'mm/memory.c').read_text(encoding='utf-8'), 'int z;\n')
		self.assertGreater((copy / 'mm/memory.c').stat().st_mtime, start)

	def test_built_in_place(self) -> None:
		for kind in ('git', 'plain', 'debian'):
			with self.subTest(kind=kind):
				tree = self.make_tree(f'linux-{kind}')
				if kind == 'git':
					self.git(tree, 'init', '-q')
					self.git(tree, 'add', '-A')
				if kind == 'debian':
					with (tree / '.gitignore').open('a', encoding='utf-8') as file:
						file.write('/*\n!/debian/\n')
				for name in ('.config', 'mm/memory.o', 'mm/.memory.o.cmd'):
					(tree / name).write_text('x', encoding='utf-8')
				_, copy = self.sync(tree)
				for name in ('.config', 'mm/memory.o', 'mm/.memory.o.cmd'):
					self.assertFalse((copy / name).exists(), name)
				for name in ('Makefile', 'mm/memory.c', 'lib/Makefile', 'arch/x86/Makefile'):
					self.assertTrue((copy / name).is_file(), name)

	def test_untracked_file_beside_the_rules_of_debian(self) -> None:
		tree = self.make_tree()
		with (tree / '.gitignore').open('a', encoding='utf-8') as file:
			file.write('/*\n!/debian/\n')
		self.git(tree, 'init', '-q')
		self.git(tree, 'add', '-A', '-f')
		(tree / 'mm/new.c').write_text('', encoding='utf-8')
		(tree / 'mm/new.o').write_text('', encoding='utf-8')
		_, copy = self.sync(tree)
		self.assertEqual(sorted(path.name for path in (copy / 'mm').iterdir()), ['memory.c', 'new.c'])

	def test_folders_vanish_as_well(self) -> None:
		tree = self.make_tree()
		self.write('linux/include/config/a/b', '')
		self.write('linux/include/other', '')
		_, copy = self.sync(tree)
		shutil.rmtree(tree / 'include/config')
		self.sync(tree)
		self.assertEqual(sorted(path.name for path in (copy / 'include').iterdir()), ['linux', 'other'])

	def test_interrupted_copy(self) -> None:
		tree = self.make_tree()
		real, count = devexcl_source.Copier._copy, 0

		def interrupted(self, *args, **kwargs):
			nonlocal count
			count += 1
			if count == 4:
				raise KeyboardInterrupt
			return real(self, *args, **kwargs)

		with mock.patch.object(devexcl_source.Copier, '_copy', interrupted), self.assertRaises(KeyboardInterrupt):
			self.sync(tree)
		(tree / 'Kconfig').unlink()
		(tree / 'Kconfig').write_text('new', encoding='utf-8')
		(tree / 'mm/memory.c').rename(tree / 'mm/other.c')
		(tree / 'mm/memory.c').write_text('', encoding='utf-8')
		_, copy = self.sync(tree)
		files = sorted(str(path.relative_to(copy)) for path in copy.rglob('*') if path.is_file())
		self.assertEqual(files, sorted(str(path.relative_to(tree)) for path in tree.rglob('*') if path.is_file()))

	def test_links(self) -> None:
		tree = self.make_tree()
		(tree / 'link').symlink_to('mm/memory.c')
		(tree / 'links').symlink_to('mm')
		_, copy = self.sync(tree)
		self.assertEqual((os.readlink(copy / 'link'), os.readlink(copy / 'links')), ('mm/memory.c', 'mm'))

	def test_bad_trees(self) -> None:
		with self.assertRaisesRegex(DevexclError, 'There is no folder'):
			devexcl_source.user_source(self.folder / 'nothing')
		with self.assertRaisesRegex(DevexclError, 'is not a kernel tree'):
			devexcl_source.user_source(self.folder)
		tree = self.make_tree()
		(tree / 'include/linux/rmap.h').write_text('', encoding='utf-8')
		with self.assertRaisesRegex(DevexclError, 'Linux 6.12.3, which has no make_device_exclusive'):
			devexcl_source.user_source(tree)
		(tree / 'arch/x86/Makefile').unlink()
		with self.assertRaisesRegex(DevexclError, 'has no arch/x86'):
			devexcl_source.user_source(tree)


class PackageTest(QuietTest):
	MIRROR = 'http://mirror.example/debian'

	def test_sites(self) -> None:
		both = {(self.MIRROR, 'bookworm'), (self.MIRROR, 'bookworm-updates'),
			('http://sec.example/debian-security', 'bookworm-security')}
		self.assertEqual(devexcl_source.debian_sites(both), (self.MIRROR, 'http://sec.example/debian-security'))
		self.assertEqual(devexcl_source.debian_sites({(self.MIRROR, 'trixie')}),
				 (self.MIRROR, self.MIRROR + '-security'))
		self.assertEqual(devexcl_source.debian_sites({(self.MIRROR + '-security', 'trixie-security')}),
				 (self.MIRROR, self.MIRROR + '-security'))

	def test_no_network(self) -> None:
		record = self.folder / 'cache/sources/6.12.json'
		record.parent.mkdir(parents=True)
		record.write_text(json.dumps({'number': '6.12', 'version': '6.12.9-1', 'checked': 0}), encoding='utf-8')
		with mock.patch.object(devexcl_source, 'look_up', side_effect=DevexclError('no network')):
			with self.assertRaises(DevexclError):
				devexcl_source.resolve('6.12', self.folder / 'log')
			(record.parent / '6.12-6.12.9-1').mkdir()
			self.assertEqual(devexcl_source.resolve('6.12', self.folder / 'log'), ('6.12', '6.12.9-1'))
		self.assertIn('no network', self.said.getvalue())

	def test_versions(self) -> None:
		self.assertEqual(sorted(['7.3', '6.12', '6.1'], key=devexcl_source.version_key), ['6.1', '6.12', '7.3'])
		with self.assertRaisesRegex(DevexclError, 'is not a version'):
			devexcl_source.debian_source('newest', self.folder / 'log')

	def test_tools(self) -> None:
		there = devexcl_tools.Tool('a', 'package-a', lambda: True)
		gone = devexcl_tools.Tool('b', 'package-b', lambda: False)
		devexcl_tools.ensure([there], self.folder / 'log')
		with mock.patch.object(devexcl_tools, '_as_root', return_value=None), \
		     self.assertRaisesRegex(DevexclError, 'package-b'):
			devexcl_tools.ensure([there, gone], self.folder / 'log')
		with mock.patch.object(devexcl_tools.shutil, 'which', return_value=None), \
		     self.assertRaisesRegex(DevexclError, 'KSRC='):
			devexcl_tools.ensure([gone], self.folder / 'log')


# ---- the cache, and being interrupted --------------------------------------------------------------------


class CacheTest(QuietTest):
	def test_second_run_waits_and_says_for_whom(self) -> None:
		script = ('import sys, devexcl_host\nwith devexcl_host.Lock("x"):\n'
			  ' print("locked", flush=True)\n sys.stdin.read()\n')
		with subprocess.Popen([sys.executable, '-c', script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
				      cwd=HERE) as other:
			self.assertEqual(other.stdout.readline(), b'locked\n')

			def wait(fd: int, how: int) -> None:
				if how & fcntl.LOCK_NB:
					return real(fd, how)
				other.stdin.close()
				return real(fd, how)

			real = fcntl.flock
			with mock.patch.object(devexcl_host.fcntl, 'flock', wait), devexcl_host.Lock('x'):
				pass
		self.assertRegex(self.said.getvalue(), rf'Waiting for process {other.pid} since .*busy with x')

	def test_folder_appears_when_complete(self) -> None:
		path = self.folder / 'image'
		with self.assertRaises(KeyboardInterrupt):
			with devexcl_host.new_folder(path) as folder:
				(folder / 'half').write_text('x', encoding='utf-8')
				raise KeyboardInterrupt
		self.assertFalse(path.exists())
		(self.folder / '.new-image').mkdir()	# as a killed run leaves it
		(self.folder / '.new-image/junk').write_text('x', encoding='utf-8')
		with devexcl_host.new_folder(path) as folder:
			(folder / 'whole').write_text('x', encoding='utf-8')
		self.assertEqual([item.name for item in path.iterdir()], ['whole'])

	def test_interrupted_build(self) -> None:
		build = self.folder / 'build'
		with self.assertRaises(KeyboardInterrupt):
			with devexcl_build.Interrupted(build):
				for name, age in (('old.o', 1000), ('half.o', 0), ('.old.o.cmd', 1000), ('.half.o.cmd', 1000),
						  ('plain.h', 0)):
					(build / name).write_text('x', encoding='utf-8')
					os.utime(build / name, (time.time() - age,) * 2)
				raise KeyboardInterrupt
		with devexcl_build.Interrupted(build):
			self.assertFalse((build / 'half.o').exists())
			self.assertTrue((build / 'old.o').exists())
			self.assertTrue((build / 'plain.h').exists())
		self.assertFalse((build / '.devexcl-building').exists())

	def test_objects_of_tests(self) -> None:
		folder = self.folder / 'objects'

		def build(basis: str, error: Optional[BaseException] = None, keep: bool = True) -> bool:
			"""Returns whether what an earlier build has made was still there."""
			with contextlib.suppress(KeyboardInterrupt, DevexclError):
				with devexcl_build.ObjectsOfTests(folder, basis) as objects:
					there = (folder / 'fork').exists()
					(folder / 'fork').touch()
					objects.keep = keep
					if error:
						raise error
			return there

		self.assertEqual([build('a'), build('a'), build('b'), build('b')], [False, True, False, True])
		self.assertEqual([build('b', DevexclError('x')), build('b')], [True, True])
		self.assertEqual([build('b', KeyboardInterrupt()), build('b')], [True, False])
		self.assertEqual([build('b', keep=False), build('b')], [True, False])

	def test_configured_once(self) -> None:
		def configure(tree: Path, build: Path, *_rest) -> list[str]:
			self.configured += 1
			self.write(str(build / '.config'), 'CONFIG_A=y')
			return ['CONFIG_D']

		def run(config: str) -> int:
			self.configured = 0
			with mock.patch.object(devexcl_config, 'configure', configure):
				devexcl_build.configure(mock.Mock(folder=self.folder / 'build', config=config,
								  variant=devexcl_build.Variant()), self.folder / 'log')
			return self.configured

		self.assertEqual([run('a'), run('a'), run('b'), run('b'), run(''), run('')], [1, 0, 1, 0, 1, 1])
		self.assertEqual(self.said.getvalue().splitlines(), ['This kernel goes without CONFIG_D'] * 6)
		run('b')
		self.write('build/.config', 'CONFIG_A=n')
		self.assertEqual(run('b'), 1)

	def test_command_that_fails(self) -> None:
		log = self.folder / 'log'
		with self.assertRaisesRegex(devexcl_host.CommandFailed, '(?s)exit status 3.*x.c:1: error: no.*The whole log'):
			devexcl_host.run_logged(['sh', '-c', 'echo fine; echo x.c:1: error: no; exit 3'], what='x', log=log)

	def test_interrupt_ends_the_whole_command(self) -> None:
		"""A grandchild that ignores the interrupt included."""
		grandchild = -1
		# Who is started in the background of a script ignores it from the start.
		before = signal.signal(signal.SIGINT, signal.default_int_handler)
		self.addCleanup(signal.signal, signal.SIGINT, before)

		def follow(process: subprocess.Popen, *_rest) -> None:
			nonlocal grandchild
			grandchild = os.pidfd_open(int(process.stdout.readline()))
			signal.raise_signal(signal.SIGINT)

		command = ['sh', '-c', 'sh -c "echo \\$\\$; exec sleep 1000" & wait']
		with mock.patch.object(devexcl_host, '_follow', follow), self.assertRaises(KeyboardInterrupt):
			devexcl_host.run_logged(command, what='x', log=self.folder / 'log')
		self.addCleanup(os.close, grandchild)
		# A pidfd is readable once its process has ended.
		self.assertEqual(select.select([grandchild], [], [], 30)[0], [grandchild])

	def test_spaces_in_the_cache(self) -> None:
		with mock.patch.dict(os.environ, {'DEVEXCL_CACHE': str(self.folder / 'a b')}), \
		     self.assertRaisesRegex(DevexclError, 'space or a colon'):
			devexcl_host.cache_dir()

	def test_two_results_in_one_second(self) -> None:
		args = mock.Mock(results=str(self.folder / 'results'))
		first, second = devexcl.results_folder(args, 'x'), devexcl.results_folder(args, 'x')
		self.assertNotEqual(first, second)
		devexcl.make_latest(first)
		self.assertEqual((self.folder / 'results/latest').resolve(), first.resolve())
		devexcl.make_latest(second)
		self.assertEqual((self.folder / 'results/latest').resolve(), second.resolve())


# ---- the command line ------------------------------------------------------------------------------------


class CommandTest(QuietTest):
	def run_main(self, *argv: str, **outcome) -> int:
		with mock.patch.object(devexcl, 'cmd_run', **outcome), contextlib.redirect_stderr(self.said), \
		     mock.patch.object(signal, 'signal'):
			return devexcl.main(list(argv))

	def test_exit_codes(self) -> None:
		self.assertEqual(self.run_main('run', return_value=OK), 0)
		self.assertEqual(self.run_main('run', return_value=FAILED), 1)
		self.assertEqual(self.run_main('run', side_effect=DevexclError('x')), 2)
		self.assertEqual(self.run_main('run', side_effect=KeyboardInterrupt), 130)
		self.assertEqual(self.run_main('run', side_effect=AttributeError('a bug of ours')), 2)
		self.assertEqual((OK, FAILED, CANNOT_RUN, INTERRUPTED), (0, 1, 2, 130))
		good, bad = devexcl_judge.Result('a', 'a', 'known'), devexcl_judge.Result('a', 'a', 'fixed')
		self.assertEqual((devexcl.exit_code([good]), devexcl.exit_code([good, bad])), (0, 1))

	def test_help_of_each_stage(self) -> None:
		for command in ('run', 'check', 'fetch', 'configure', 'build', 'boot', 'list', 'shell', 'judge', 'matrix', 'apply'):
			with self.subTest(command=command), contextlib.redirect_stdout(io.StringIO()) as out:
				with self.assertRaises(SystemExit) as end:
					devexcl.main([command, '--help'])
				self.assertEqual(end.exception.code, 0)
				self.assertIn('exit codes', out.getvalue())

	def test_judge_again(self) -> None:
		shutil.copy(DATA / 'demo-6.12.record.jsonl', self.folder / devexcl_attempt.RECORD)
		self.write('results.json', json.dumps({**ReportTest.FACTS, 'times': {}}))
		with mock.patch.object(signal, 'signal'), contextlib.redirect_stderr(self.said):
			self.assertEqual(devexcl.main(['judge', str(self.folder)]), FAILED)
			self.assertEqual(devexcl.main(['judge', str(self.folder / 'nothing')]), CANNOT_RUN)

	def test_variables_of_make_end_here(self) -> None:
		of_make = {'DEBUG': '1', 'V': '1', 'MAKEFLAGS': 'rR -- DEBUG=1', 'J': '3'}
		with mock.patch.dict(os.environ, of_make), mock.patch.object(signal, 'signal'), \
				contextlib.redirect_stderr(self.said):
			devexcl.main(['judge', str(self.folder)])
			self.assertEqual(set(of_make) & set(os.environ), {'J'})


class BenchTest(QuietTest):
	"""Speed, from lines as the guest prints them."""

	FACTS = {'accelerator': 'tcg', 'source': 'x', 'toolchain': 'y'}

	def samples(self, ours: float = 1200.0, two_engines: float = 170.0) -> devexcl_bench.Samples:
		samples = devexcl_bench.Samples()
		samples.feed('{"machine": {"release": "7.3.1", "cpus": 2, "rounds": 5}}')
		for number in range(5):
			drift = 1 + number / 10	# hits all of a round alike
			for figure, series, x, value in (
				('acquire-base', 'ours', 512, ours), ('acquire-base', 'ours', 4096, ours * 1.1),
				('acquire-base', 'floor', 512, 900), ('acquire-base', 'floor', 4096, 1000),
				('acquire-base', 'test_hmm', 4096, 6000), ('atomics', 'ioctl', 1, 10), ('atomics', 'ioctl', 8192, 210),
				('engines', 'ops', 1, 100), ('engines', 'ops', 2, two_engines),
				('engines', 'threads', 1, 1000), ('engines', 'threads', 2, 1900), ('memory', 'table', 512, 12.03)):
				unit = 'ops/s' if series in ('ops', 'ioctl', 'threads') else 'ns/page'
				drifted = value if figure == 'memory' else value * drift
				self.assertIsNotNone(samples.feed(json.dumps({'figure': figure, 'series': series, 'x': x, 'unit': unit,
									      'round': number, 'value': drifted})))
		samples.feed('{"figure": "acquire-base", "series": "test_hmm", "x": 512, "skip": "No such <file>"}')
		return samples

	def test_ratios_do_not_drift(self) -> None:
		ratios = {ratio.name: ratio for ratio in devexcl_bench.judge(self.samples())}
		self.assertEqual(sum(ratio.has_target for ratio in ratios.values()), 6)
		ratio = ratios['acquire 4096 base pages: ours / floor']
		self.assertAlmostEqual(ratio.spread.low, 1.32)
		self.assertAlmostEqual(ratio.spread.high, 1.32)
		self.assertFalse(ratio.reached)
		self.assertEqual(ratio.target, 'at most 1.25')
		self.assertAlmostEqual(ratios['acquire 4096 base pages: test_hmm / ours'].spread.median, 6000 / 1320)
		self.assertTrue(ratios['operations a second: 8192 in a call / one in a call'].reached)
		self.assertTrue(ratios['acquire 512 to 4096 base pages: dearest / cheapest page'].reached)
		bound = ratios['operations a second: two threads without a device / one']
		self.assertEqual((bound.target, bound.spread.median), ('-', 1.9))
		self.assertEqual([name for name, ratio in ratios.items() if not ratio.reached], [ratio.name for ratio in
				 devexcl_bench.judge(self.samples()) if 'ours / floor' in ratio.name])

	def test_targets(self) -> None:
		for ours, engines, missed in ((1000.0, 170.0, 0), (1000.0, 150.0, 1), (3000.0, 159.0, 3)):
			with self.subTest(ours=ours, engines=engines):
				ratios = devexcl_bench.judge(self.samples(ours, engines))
				self.assertEqual(sum(not ratio.reached for ratio in ratios), missed)

	def test_report(self) -> None:
		devexcl_bench.report(self.samples(), self.FACTS, self.folder)
		said = self.said.getvalue()
		self.assertIn('1 of 6 targets NOT reached', said)
		self.assertRegex(said, r'ours / floor +1\.32 .* at most 1\.25 +NOT reached')
		self.assertRegex(said, r'512 +1,440 \(1,200 to 1,680\)')
		self.assertIn('No such <file>', said)
		told = json.loads((self.folder / 'bench.json').read_text(encoding='utf-8'))
		self.assertEqual(told['schema'], devexcl_bench.SCHEMA)
		self.assertEqual(told['machine']['accelerator'], 'tcg')
		self.assertEqual(len(told['figures']['acquire-base']['series']['ours']['4096']['rounds']), 5)
		self.assertEqual([ratio['name'] for ratio in told['ratios'] if ratio.get('reached') is False],
				 ['acquire 4096 base pages: ours / floor'])
		bound = next(ratio for ratio in told['ratios'] if 'threads' in ratio['name'])
		self.assertEqual(set(bound), {'name', 'value', 'low', 'high'})

	def test_plots(self) -> None:
		devexcl_bench.report(self.samples(), self.FACTS, self.folder)
		plots = sorted(path.name for path in self.folder.glob('*.svg'))
		self.assertEqual(plots, ['bench-acquire-base.svg', 'bench-atomics.svg', 'bench-engines.svg'])
		for name in plots:
			text = (self.folder / name).read_text(encoding='utf-8')
			ElementTree.fromstring(text)
			self.assertIn('prefers-color-scheme: dark', text)
		page = (self.folder / 'bench.html').read_text(encoding='utf-8')
		self.assertEqual([name for name in plots if f'src="{name}"' in page], plots)
		self.assertNotIn('http', page)

	def test_axes(self) -> None:
		self.assertEqual(devexcl_bench.ticks(2600, 6500), [2000, 5000, 10000])
		self.assertEqual(devexcl_bench.ticks(100, 100), [100, 200])
		marks = devexcl_bench.ticks(3, 260000)
		self.assertTrue(marks[0] <= 3 and marks[-1] >= 260000 and len(marks) < 9)
		place = devexcl_bench.scale(1, 100, 0, 200)
		self.assertEqual([round(place(value)) for value in (1, 10, 100)], [0, 100, 200])
		self.assertEqual([devexcl_bench.number(value) for value in (0, 0.5, 12.034, 999.6, 1234567)],
				 ['0', '0.500', '12.0', '1000', '1,234,567'])

	def test_guest(self) -> None:
		said = ['{"machine": {"release": "7.3.1", "cpus": 2, "rounds": 1}}', 'cannot load it',
			'{"figure": "memory", "series": "table", "x": 512, "unit": "bytes/page", "round": 0, "value": 12}']
		sent: list = []

		class Fake(FakeGuest):
			def send(self, *words: str) -> None:
				sent.append(words)
				if words[0] == 'batch':
					self.events = [Event('channel', 'begin 1 bench'), Event('console', 'x'),
						       *(Event('channel', f'out 1 {line}') for line in said),
						       Event('channel', 'end 1 exit 0 100')]

			def next_event(self, timeout: float) -> Event:
				return self.events.pop(0) if self.events else Event('gone')

		def measure() -> devexcl_bench.Samples:
			with mock.patch.object(devexcl_bench, 'Guest', lambda *_, **__: Fake({})):
				return devexcl_bench.measure(None, ('tcg', 'max'), self.folder, rounds=1)

		self.assertEqual(measure().values, {('memory', 'table', 512): {0: 12}})
		self.assertEqual(sent[0][4:], ('devexcl_bench', '-r', '1'))
		self.assertIn('warning: cannot load it', self.said.getvalue())
		said = said[:1]
		with mock.patch.object(Fake, 'send', lambda *_: None), self.assertRaisesRegex(DevexclError, 'did not survive'):
			measure()


class BackgroundTest(QuietTest):
	def test_in_order(self) -> None:
		def fails() -> int:
			raise DevexclError('no compiler')

		with Background([lambda: 1, fails, lambda: 3]) as background:
			self.assertEqual(background.get(), 1)
			with self.assertRaisesRegex(DevexclError, 'no compiler'):
				background.get()
			self.assertEqual(background.get(), 3)

	def test_interrupt_ends_what_is_built(self) -> None:
		started, outcome = threading.Event(), []

		def build() -> None:
			try:
				devexcl_host.run_logged(['sh', '-c', 'echo up; exec sleep 1000'], what='x', log=self.folder / 'log')
			except BaseException as err:
				outcome.append(type(err))
				raise

		def follow(process: subprocess.Popen, *_rest) -> None:
			process.stdout.readline()
			started.set()
			process.wait()

		with mock.patch.object(devexcl_host, '_follow', follow), self.assertRaises(KeyboardInterrupt):
			with Background([build, lambda: self.fail('goes on')]):
				started.wait(30)
				raise KeyboardInterrupt
		self.assertEqual(outcome, [KeyboardInterrupt])

	def test_progress_of_both(self) -> None:
		stream = mock.Mock(isatty=lambda: True)
		terminal = devexcl_host.Terminal(stream)
		with mock.patch.object(devexcl_host, 'terminal', terminal):
			terminal.aside_thread = threading.Thread(target=terminal.progress, args=('building',))
			terminal.aside_thread.start()
			terminal.aside_thread.join()
			stream.write.assert_not_called()
			terminal.progress('testing')
		stream.write.assert_called_with('testing  | building')


class CheckTest(QuietTest):
	OUTPUT = ('lib/a.c:7: WARNING:LONG_LINE: line over 100 columns\n'
		  'lib/b.h:9: CHECK:MACRO_ARG_REUSE: Macro argument reuse\nnoise\n')

	def test_exceptions(self) -> None:
		path = self.write('exceptions', '# x\nlib/*.h | MACRO_ARG_REUSE | why\nnobody.c | LONG_LINE | why\n')
		rows = devexcl_check.read_exceptions(path)
		complaints, used = devexcl_check.style_complaints(self.OUTPUT, rows)
		self.assertEqual(complaints, ['lib/a.c:7: WARNING:LONG_LINE: line over 100 columns'])
		self.assertEqual(used, {rows[0]})
		with self.assertRaises(DevexclError):
			devexcl_check.read_exceptions(self.write('exceptions', 'lib/*.h | MACRO_ARG_REUSE\n'))

	def test_warnings_of_ours_only(self) -> None:
		output = ('/x/lib/test_devexcl.c:3:1: warning: symbol\n/kernel/include/linux/mm.h:1:2: warning: theirs\n'
			  'lib/test_devexcl.c:5:1: error: no\n')
		self.assertEqual(len(devexcl_check.warnings(output, '/x')), 2)

	def test_last_line(self) -> None:
		table = devexcl_check.Table()
		table.add(devexcl_check.Row('a', passed=3, skipped=1))
		table.add(devexcl_check.Row('b', failed=2))
		devexcl_check.print_table(table)
		self.assertEqual(self.said.getvalue().splitlines()[-1], '3 passed, 2 failed, 1 skipped')

	def test_known_counts_as_passed(self) -> None:
		results = [devexcl_judge.Result(name, 'a', name, bug='x') for name in ('pass', 'known', 'skip', 'fixed', 'hang')]
		row = devexcl_check.suite_row('x', results, 1.0)
		self.assertEqual((row.passed, row.failed, row.skipped, row.known), (2, 2, 1, ['x']))
		table = devexcl_check.Table()
		table.add(row)
		devexcl_check.print_table(table)
		self.assertIn('known   x\n            1 on x\n', self.said.getvalue())

	def test_all_of_it(self) -> None:
		"""What goes wrong with one kernel is told in its place, and the others go on."""
		def prepare(check: devexcl.SuiteCheck) -> tuple:
			if check.suite.builtin:
				raise DevexclError('no compiler')
			return mock.Mock(), [devexcl_check.Row.of_check('style', ['x.c: ugly'] * check.suite.plain, '')]

		def run(session: devexcl.Session, _image) -> tuple:
			verdict = 'fail' if session.args.kernel == '6.1' else 'pass'
			matrix_test = MatrixTest().run_of(f'{session.args.kernel}.1', m__cut__base=verdict, abi__x='pass')
			devexcl_report.write_all(matrix_test.results, matrix_test.facts, devexcl_host.Timings(), session.folder)
			return matrix_test.results, session.args.kernel == stop

		for stop, code, suites in (('', CANNOT_RUN, 5), ('6.1', INTERRUPTED, 4)):
			with self.subTest(stop=stop), mock.patch.object(devexcl.SuiteCheck, 'prepare', prepare), \
			     mock.patch.object(devexcl, 'run_tests', run), mock.patch.object(devexcl_tools, 'ensure'), \
			     mock.patch.object(devexcl, 'run_selfcheck', lambda *_: (OK, [])), \
			     mock.patch.object(devexcl_check, 'unit_tests', lambda: devexcl_check.Row('unit tests')), \
			     mock.patch.object(signal, 'signal'), contextlib.redirect_stderr(self.said):
				self.said.truncate(self.said.seek(0))
				self.assertEqual(devexcl.main(['check', '--results', str(self.folder / 'results')]), code)
				said = self.said.getvalue()
				self.assertEqual(said.rpartition('Picture:')[2].count('  Linux '), suites)
				self.assertIn('    x.c: ugly\nFAILED  style', said)
				self.assertIn('FAILED  Linux 6.12, device built in', said)
		[page, _] = sorted(self.folder.glob('results/*/matrix.html'))
		self.assertIn('Linux 7.3.1', page.read_text(encoding='utf-8'))


if __name__ == '__main__':
	unittest.main()
