# SPDX-License-Identifier: GPL-2.0
"""The tools that we need, and how to get those that are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from devexcl_arch import host_arch
from devexcl_host import CommandFailed, DevexclError, Lock, run_logged, terminal


def _command(name: str) -> Callable[[], bool]:
	return lambda: shutil.which(name) is not None


def _compiles(program: str, *flags: str) -> Callable[[], bool]:
	def probe() -> bool:
		if not shutil.which('gcc'):
			return False
		with tempfile.TemporaryDirectory() as folder:
			return subprocess.run(['gcc', '-x', 'c', *flags, '-o', f'{folder}/out', '-'], input=program.encode(),
					      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
	return probe


@dataclass(frozen=True)
class Tool:
	"""Something that has to be there: what it is, its package on Debian and Ubuntu, how to tell."""

	what: str
	package: str
	present: Callable[[], bool]
	optional: str = ''	# what goes without it


def _commands(*pairs: tuple[str, str]) -> list[Tool]:
	return [Tool(name, package, _command(name)) for name, package in pairs]


MAIN = 'int main(void) { return 0; }'

BUILD = [
	*_commands(('gcc', 'gcc'), ('ld', 'binutils'), ('make', 'make'), ('flex', 'flex'), ('bison', 'bison'),
		   ('bc', 'bc'), ('perl', 'perl'), ('rsync', 'rsync'), ('xz', 'xz-utils'),
		   ('git', 'git')),
	Tool('the C library, for static programs', 'libc6-dev', _compiles(MAIN, '-static')),
	Tool('libelf', 'libelf-dev', _compiles('#include <gelf.h>', '-E')),
	Tool('OpenSSL', 'libssl-dev', _compiles('#include <openssl/opensslv.h>', '-E')),
	Tool('libnuma', 'libnuma-dev', _compiles('#include <numa.h>', '-E'), 'tests that place pages on nodes'),
	Tool('a compiler for 32-bit programs', 'gcc-multilib', _compiles(f'#include <stdio.h>\n{MAIN}', '-m32', '-static'),
	     'tests of 32-bit callers'),
]
BOOT = [Tool(host_arch().qemu, 'qemu-system-x86', _command(host_arch().qemu))]
SHELL = _commands(('busybox', 'busybox-static'))
CHECK = _commands(('sparse', 'sparse'))


def ensure(tools: list[Tool], log: Path) -> None:
	"""Installs what is missing, where that can be done; else says what is."""
	absent = [tool for tool in tools if not tool.present()]
	if not absent:
		return
	needed = [tool for tool in absent if not tool.optional]
	if shutil.which('apt-get'):
		prefix = _as_root()
		if prefix is not None:
			terminal.say(f'Installing what is missing: {", ".join(tool.package for tool in absent)}')
			_install(prefix, needed, log)
			for tool in absent:
				if tool.optional:
					try:
						_install(prefix, [tool], log)
					except DevexclError:
						terminal.warn(f'{tool.package} cannot be installed; there will be no {tool.optional}')
			absent = [tool for tool in needed if not tool.present()]
			if not absent:
				return
			needed = absent
		if needed:
			raise DevexclError('Some tools are missing, and could not be installed. As root:\n  apt-get install '
					   + ' '.join(tool.package for tool in needed))
	if needed:
		raise DevexclError('Some tools are missing: ' + ', '.join(tool.what for tool in needed) + '.\n'
				   'Install them with the package manager of this system; on Debian the packages are called '
				   + ', '.join(tool.package for tool in needed) + '.\n'
				   'Where there are no linux-source packages, name a kernel tree: make run KSRC=/path/to/linux')
	for tool in absent:
		terminal.warn(f'{tool.what} ({tool.package}) is missing; there will be no {tool.optional}')


def _as_root() -> list[str] | None:
	"""What to put before a command to run it as root; None if there is no way."""
	if os.geteuid() == 0:
		return []
	sudo = shutil.which('sudo')
	if sudo and subprocess.run([sudo, '-n', 'true'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
				   check=False).returncode == 0:
		return [sudo, '-n']
	return None


def _install(prefix: list[str], tools: list[Tool], log: Path) -> None:
	if not tools:
		return
	packages = [tool.package for tool in tools]
	install = [*prefix, 'env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-y', '-q', '-o', 'DPkg::Lock::Timeout=300',
		   '--no-install-recommends', '--no-remove', 'install', *packages]
	what = f'Installing {" ".join(packages)}'
	with Lock('install'):
		try:
			run_logged(install, what=what, log=log)
		except CommandFailed:
			# The lists may be old, or there may be none yet.
			run_logged([*prefix, 'apt-get', '-q', '-o', 'DPkg::Lock::Timeout=300', 'update'],
				   what='Reading package lists', log=log)
			run_logged(install, what=what, log=log)
