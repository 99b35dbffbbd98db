# SPDX-License-Identifier: GPL-2.0
"""Booting: a guest in QEMU, its console, and the channel to its first process.

The protocol on the channel is described at the top of init.c.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Sequence

from devexcl_arch import Arch, host_arch
from devexcl_build import Image, make_initramfs
from devexcl_host import (DevexclError, cache_dir, output_of, seconds, stop_group, terminal,
			  write_atomically)

CPUS = 2
NODES = 2
NODE_MEMORY = '1G'
APERTURE_MEMORY = '16M'
CHANNEL_NAME = 'org.devexcl.channel'

# More guests than that make nothing quicker.
MOST_GUESTS = 4

BOOT_SECONDS = 120	# on a busy machine
DEBUG_BOOT_SECONDS = 300
PROBE_SECONDS = 15
POWEROFF_SECONDS = 20
# The console comes byte by byte. Let some more come before they are looked at.
GATHER_SECONDS = 0.01

KERNEL_CMDLINE = (
	'rdinit=/init',
	'panic=-1',		# with -no-reboot: a panic ends QEMU
	'printk.devkmsg=on',	# our markers are never dropped
	'loglevel=7',
	'movablecore=512M',	# memory that can be taken offline
	# Much of what is tested waits for a grace period, at 250 Hz.
	'rcupdate.rcu_expedited=1',
)

ANSI = re.compile(r'\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])')


def unescape(text: str) -> str:
	"""The inverse of what init.c does with bytes that are not printable."""
	raw = re.sub(rb'\\x([0-9a-f]{2})', lambda match: bytes([int(match.group(1), 16)]), text.encode('latin-1', 'replace'))
	return raw.decode('utf-8', 'replace')


def escape(word: str) -> str:
	return ''.join(c if '!' <= c <= '~' and c != '\\' else ''.join(f'\\x{b:02x}' for b in c.encode())
		       for c in word)


@dataclass(frozen=True)
class Event:
	"""Something that the guest did."""

	kind: str		# 'console' or 'channel' (a line), 'silence' (nothing came in time), 'gone'
	text: str = ''


class LineReader:
	"""Bytes in, lines out."""

	LONGEST = 1 << 16

	def __init__(self) -> None:
		self._rest = b''

	def feed(self, data: bytes) -> list[str]:
		*lines, self._rest = (self._rest + data).split(b'\n')
		if len(self._rest) > self.LONGEST:	# garbage without an end
			lines.append(self._rest)
			self._rest = b''
		return [self.clean(line) for line in lines]

	def rest(self) -> list[str]:
		"""What came after the last newline, at the end of everything."""
		rest, self._rest = self._rest, b''
		return [self.clean(rest)] if rest.strip() else []

	@staticmethod
	def clean(line: bytes) -> str:
		return ANSI.sub('', line.decode('utf-8', 'replace')).rstrip('\r')


def qemu_command(image: Image, initramfs: Path, accelerator: tuple[str, str], arch: Arch,
		 cmdline: Sequence[str] = ()) -> list[str]:
	"""QEMU without the devices, which are the caller's business."""
	accel, cpu = accelerator
	command = [arch.qemu, '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none',
		   '-machine', arch.machine_for(image.manifest['debug']), '-accel', accel, '-cpu', cpu,
		   # a socket for each node: CPUs of one socket share a cache, which nodes do not
		   '-smp', f'{CPUS},sockets={NODES}',
		   '-m', f'{NODES * int(NODE_MEMORY[:-1])}{NODE_MEMORY[-1]}']
	for node in range(NODES):
		command += ['-object', f'memory-backend-ram,id=m{node},size={NODE_MEMORY}',
			    '-numa', f'node,nodeid={node},memdev=m{node},cpus={node}']
	words = [f'console={arch.console}', *arch.cmdline, *KERNEL_CMDLINE, *cmdline]
	return command + ['-kernel', str(image.vmlinux), '-initrd', str(initramfs), '-append', ' '.join(words)]


@functools.cache
def aperture_device(qemu: str) -> tuple[str, ...]:
	"""A PCI device that is nothing but memory, for the aperture to map; nothing if this QEMU has none."""
	if not shutil.which(qemu) or '"ivshmem-plain"' not in output_of([qemu, '-device', 'help']):
		return ()
	return ('-object', f'memory-backend-ram,id=aperture,size={APERTURE_MEMORY}',
		'-device', 'ivshmem-plain,memdev=aperture')


def dies_with_us(command: list[str]) -> list[str]:
	"""If we are killed there is nobody left to stop QEMU."""
	return ['setpriv', '--pdeathsig', 'KILL', *command] if shutil.which('setpriv') else command


def guests_at_once() -> int:
	"""As many as this machine has CPUs and memory for: of the CPUs of a guest one works, most of the time (see init.c)."""
	free = re.search(r'^MemAvailable:\s+(\d+) kB', Path('/proc/meminfo').read_text(encoding='utf-8'), re.MULTILINE)
	gigabytes = int(free.group(1)) >> 20 if free else 0
	# A guest is not its memory only, and others want some as well.
	fit = gigabytes // (2 * NODES * int(NODE_MEMORY[:-1]))
	return max(1, min(MOST_GUESTS, len(os.sched_getaffinity(0)), fit))


class Guest:
	"""A running guest. Use it as a context manager: at the end of it QEMU is gone."""

	def __init__(self, image: Image, *, accelerator: tuple[str, str], cmdline: Sequence[str] = (),
		     console_log: Path) -> None:
		self.image = image
		self.accelerator = accelerator
		self.cmdline = cmdline
		self.console_log = console_log
		self.hello = ''
		self.cpu_seconds = 0.0		# that QEMU has taken, when it is gone
		self._pending: list[Event] = []
		self._stack = contextlib.ExitStack()
		self._open: set[str] = set()

	def __enter__(self) -> 'Guest':
		try:
			self._start()
		except BaseException:
			self._stack.close()
			raise
		return self

	def __exit__(self, *exc) -> None:
		self._stack.close()

	def _start(self) -> None:
		arch = host_arch()
		folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='devexcl-')))
		initramfs = folder / 'initramfs'
		make_initramfs(self.image, initramfs)
		self._console, console_end = socket.socketpair()
		self._channel, channel_end = socket.socketpair()
		for end in (self._console, self._channel):
			self._stack.callback(end.close)
			end.setblocking(False)
		command = qemu_command(self.image, initramfs, self.accelerator, arch, self.cmdline)
		command += ['-chardev', f'socket,id=console,fd={console_end.fileno()}', '-serial', 'chardev:console',
			    '-chardev', f'socket,id=channel,fd={channel_end.fileno()}', '-device', 'virtio-serial-pci',
			    '-device', f'virtserialport,chardev=channel,name={CHANNEL_NAME}',
			    *aperture_device(arch.qemu)]
		if terminal.verbose:
			terminal.say(' '.join(command))
		self._log = self._stack.enter_context(self.console_log.open('wb'))
		self._stderr = self._stack.enter_context(tempfile.TemporaryFile())
		try:
			self.process = subprocess.Popen(
				dies_with_us(command), stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr,
				start_new_session=True, pass_fds=(console_end.fileno(), channel_end.fileno()))
		except FileNotFoundError as err:
			raise DevexclError(f'{arch.qemu} is not installed') from err
		finally:
			console_end.close()
			channel_end.close()
		self._stack.callback(self.kill)
		self._selector = self._stack.enter_context(selectors.DefaultSelector())
		for name, end in (('console', self._console), ('channel', self._channel)):
			self._selector.register(end, selectors.EVENT_READ, (name, LineReader()))
			self._open.add(name)

	def kill(self) -> None:
		self._note_cpu_time()
		if self.process.poll() is None:
			stop_group(self.process, patience=2)

	def next_event(self, timeout: float) -> Event:
		"""The next line from the guest, or 'silence' after that many seconds."""
		deadline = time.monotonic() + timeout
		while not self._pending:
			if not self._open:
				return Event('gone', self._last_words())
			ready = self._selector.select(max(0.0, deadline - time.monotonic()))
			if not ready and time.monotonic() >= deadline:
				return Event('silence')
			time.sleep(GATHER_SECONDS)
			for key, _ in ready:
				self._read(key)
		return self._pending.pop(0)

	def _read(self, key: selectors.SelectorKey) -> None:
		name, reader = key.data
		try:
			data = key.fileobj.recv(65536)
		except BlockingIOError:
			return
		except ConnectionError:
			data = b''
		if data:
			lines = reader.feed(data)
		else:
			lines = reader.rest()
			self._selector.unregister(key.fileobj)
			self._open.discard(name)
		if name == 'console':
			self._log.write(data)
			self._log.flush()
			if terminal.verbose:
				for line in lines:
					terminal.say('    | ' + line)
		self._pending += [Event(name, line) for line in lines]

	def _note_cpu_time(self) -> None:
		"""Who has ended keeps the sum until somebody has waited for it."""
		if self.process.returncode is not None:
			return
		with contextlib.suppress(OSError, ValueError, IndexError):
			fields = Path(f'/proc/{self.process.pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()
			self.cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

	def _last_words(self) -> str:
		"""What QEMU itself had to say."""
		self._note_cpu_time()
		with contextlib.suppress(subprocess.TimeoutExpired):
			self.process.wait(5)
		self._stderr.seek(0)
		return self._stderr.read().decode('utf-8', 'replace').strip()

	def send(self, *words: str) -> None:
		data = ' '.join(escape(word) for word in words).encode() + b'\n'
		self._channel.setblocking(True)
		try:
			self._channel.settimeout(BOOT_SECONDS)
			self._channel.sendall(data)
		except OSError:
			pass	# it is gone, as the next event will tell
		finally:
			self._channel.setblocking(False)

	def wait_until_ready(self) -> list[str]:
		"""The console up to the guest's hello; an error if that does not come."""
		limit = DEBUG_BOOT_SECONDS if self.image.manifest['debug'] else BOOT_SECONDS
		console: list[str] = []
		deadline = time.monotonic() + limit
		while True:
			event = self.next_event(max(0.0, deadline - time.monotonic()))
			if event.kind == 'console':
				console.append(event.text)
			elif event.kind == 'channel' and event.text.startswith('hello '):
				self.hello = event.text.split(' ', 2)[2]
				return console
			elif event.kind in ('silence', 'gone'):
				raise BootFailed(event, console, limit, self.console_log)

	def power_off(self) -> list[str]:
		"""Ends the guest in good order; returns what the console still said."""
		console = []
		self.send('poweroff')
		deadline = time.monotonic() + POWEROFF_SECONDS
		while True:
			event = self.next_event(max(0.0, deadline - time.monotonic()))
			if event.kind == 'console':
				console.append(event.text)
			elif event.kind in ('silence', 'gone'):
				return console


class BootFailed(DevexclError):
	def __init__(self, event: Event, console: list[str], limit: float, log: Path) -> None:
		if event.kind == 'silence':
			what = f'The guest did not report within {seconds(limit)}'
		else:
			what = 'The guest ended before it reported'
		last = '\n'.join('    ' + line for line in console[-25:]) or '    (nothing)'
		words = f'\nQEMU said: {event.text}' if event.text else ''
		super().__init__(f'{what}. The end of its console:\n{last}{words}\nThe whole console: {log}')


# ---- which accelerator ----------------------------------------------------------


def pick_accelerator(image: Image, folder: Path) -> tuple[str, str]:
	"""The best accelerator that has been seen to boot a kernel on this machine.

	/dev/kvm may be there, open and even make a virtual machine without being
	able to run one. What was found out is remembered until the next boot of
	the host.
	"""
	arch = host_arch()
	version = output_of([arch.qemu, '--version']).splitlines()[0]
	boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()
	record = cache_dir() / 'accelerator.json'
	with contextlib.suppress(OSError, ValueError, KeyError):
		known = json.loads(record.read_text(encoding='utf-8'))
		if known['host'] == [boot, version] and tuple(known['accelerator']) in arch.accelerators:
			return tuple(known['accelerator'])
	for accelerator in arch.accelerators[:-1]:
		if can_boot(image, accelerator, folder):
			break
	else:
		accelerator = arch.accelerators[-1]
	terminal.say(f'Acceleration: {accelerator[0]}')
	write_atomically(record, json.dumps({'host': [boot, version], 'accelerator': accelerator}))
	return accelerator


def can_boot(image: Image, accelerator: tuple[str, str], folder: Path) -> bool:
	"""Boots up to the first process, which says so and powers off."""
	if accelerator[0] == 'kvm' and not os.access('/dev/kvm', os.R_OK | os.W_OK):
		return False
	terminal.progress(f'Trying {accelerator[0]}, for at most {PROBE_SECONDS} s')
	deadline = time.monotonic() + PROBE_SECONDS
	with Guest(image, accelerator=accelerator, cmdline=['devexcl.probe'],
		   console_log=folder / f'probe-{accelerator[0]}.log') as guest:
		seen = False
		while True:
			event = guest.next_event(max(0.0, deadline - time.monotonic()))
			seen = seen or 'devexcl-init: probe' in event.text
			if event.kind in ('silence', 'gone'):
				return seen and event.kind == 'gone'


# ---- a shell ---------------------------------------------------------------------


def interactive(image: Image, accelerator: tuple[str, str]) -> int:
	"""A shell in the guest, on this terminal. Ctrl-C goes to the guest; exit ends it."""
	arch = host_arch()
	with tempfile.TemporaryDirectory(prefix='devexcl-') as folder:
		initramfs = Path(folder) / 'initramfs'
		make_initramfs(image, initramfs, shell=True)
		command = qemu_command(image, initramfs, accelerator, arch, ['devexcl.shell', 'quiet'])
		command += ['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console',
			    *aperture_device(arch.qemu)]
		with terminal_as_it_was():
			return subprocess.run(dies_with_us(command), check=False).returncode


@contextlib.contextmanager
def terminal_as_it_was() -> Iterator[None]:
	"""QEMU gives the terminal back as it was, but not when it is killed."""
	if not sys.stdin.isatty():
		yield
		return
	fd = sys.stdin.fileno()
	flags, settings = fcntl.fcntl(fd, fcntl.F_GETFL), termios.tcgetattr(fd)
	try:
		yield
	finally:
		fcntl.fcntl(fd, fcntl.F_SETFL, flags)
		termios.tcsetattr(fd, termios.TCSADRAIN, settings)
