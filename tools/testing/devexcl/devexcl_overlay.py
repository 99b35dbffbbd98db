# SPDX-License-Identifier: GPL-2.0
"""The overlay: this repository's kernel files, put into a kernel tree.

Every file under lib/, include/, Documentation/ and tools/testing/selftests/ goes
where it stands here. Three files of the kernel get a line each, so that the
kernel's own build finds ours. Applying twice changes nothing, and a file is
written only if its contents differ: make rebuilds what has changed, no more.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
from pathlib import Path

from devexcl_host import REPO, DevexclError, hash_of, write_atomically

ROOTS = ('lib', 'include', 'Documentation', 'tools/testing/selftests')
RUNNER = 'tools/testing/devexcl'
SELFTESTS = 'tools/testing/selftests/devexcl'
KCONFIG, KCONFIG_INSTALLED = 'Kconfig.debug', 'lib/Kconfig.devexcl'

# Files of the overlay that an earlier run has put into a tree.
RECORD = '.devexcl-overlay.json'

# Left behind by builds inside the repository; only asked where git cannot tell.
PRODUCTS = ('__pycache__', '*.pyc', '*.o', '*.ko', '*.mod', '*.mod.c', '*.cmd', '*.order', '*.symvers', '.*.d', '*.swp', '*~')

# (module, the Kconfig symbol that switches it on)
MODULES = (('test_devexcl', 'TEST_DEVEXCL'),
	   ('test_devexcl_aperture', 'TEST_DEVEXCL_APERTURE'))


class Overlay:
	"""The overlay as it is at one moment: people go on editing while kernels are built."""

	def __init__(self, repo: Path = REPO, roots: tuple[str, ...] = ROOTS) -> None:
		self.files = {name: (repo / name).read_bytes() for name in _source_names(repo, roots)}
		if (repo / KCONFIG).is_file():
			self.files[KCONFIG_INSTALLED] = (repo / KCONFIG).read_bytes()

	@staticmethod
	def for_patches(repo: Path = REPO) -> 'Overlay':
		"""Everything that would go into Linux, the runner included."""
		return Overlay(repo, (*ROOTS, RUNNER))

	def part(self, *prefixes: str) -> dict[str, bytes]:
		return {name: contents for name, contents in self.files.items() if name.startswith(prefixes)}

	def kernel_hash(self) -> str:
		"""Changes when something changes that is compiled into the kernel."""
		return hash_of(sorted(self.part('lib/', 'include/').items()))

	def tests_hash(self) -> str:
		"""Changes when something changes that the test programs are made of."""
		return hash_of(sorted(self.part(SELFTESTS, 'include/uapi/').items()))

	def config_hash(self) -> str:
		"""Changes when something changes that a configuration depends on."""
		return hash_of(self.part(KCONFIG_INSTALLED), self.modules())

	def modules(self) -> list[tuple[str, str]]:
		"""The modules that exist so far, in the order in which they are loaded."""
		return [(name, symbol) for name, symbol in MODULES if f'lib/{name}.c' in self.files]

	def apply(self, tree: Path, record: bool = True) -> list[str]:
		"""Puts the overlay into a tree; returns the names of the files that were written.

		The record is for what vanishes from the overlay later. A tree that is
		not a build copy of ours gets none.
		"""
		if not (tree / 'lib' / 'Kconfig.debug').is_file():
			raise DevexclError(f'{tree} is not a kernel tree: it has no lib/Kconfig.debug')
		written = _remove_vanished(tree, self.files)
		for name, contents in self.files.items():
			if _write_if_different(tree / name, contents):
				written.append(name)
		for name, change in (('lib/Kconfig.debug', self._with_kconfig), ('lib/Makefile', self._with_modules),
				     ('tools/testing/selftests/Makefile', self._with_selftests)):
			path = tree / name
			after = change(path.read_text(encoding='utf-8', errors='surrogateescape'))
			if _write_if_different(path, after.encode('utf-8', 'surrogateescape')):
				written.append(name)
		if record:
			write_atomically(tree / RECORD, json.dumps(sorted(self.files)))
		return written

	def _with_kconfig(self, text: str) -> str:
		"""lib/Kconfig.debug, sourcing ours after TEST_HMM: inside the menu of runtime tests."""
		line = f'source "{KCONFIG_INSTALLED}"\n'
		text = text.replace(line + '\n', '')
		if KCONFIG_INSTALLED not in self.files:
			return text
		anchor = re.search(r'^config TEST_HMM\n(?:[ \t].*\n|\n)*', text, re.MULTILINE)
		if not anchor:
			raise DevexclError('lib/Kconfig.debug has no TEST_HMM: make_device_exclusive*() came later than it did')
		return text[:anchor.end()] + line + '\n' + text[anchor.end():]

	def _with_modules(self, text: str) -> str:
		"""lib/Makefile, with our modules; -I is for their trace header."""
		text = re.sub(r'^(obj-\$\(CONFIG_TEST_DEVEXCL|CFLAGS_test_devexcl).*\n', '', text, flags=re.MULTILINE)
		lines = ''.join(f'obj-$(CONFIG_{symbol}) += {name}.o\nCFLAGS_{name}.o += -I$(src)\n'
				for name, symbol in self.modules())
		anchor = re.search(r'^obj-\$\(CONFIG_TEST_HMM\).*\n', text, re.MULTILINE)
		if not anchor:
			raise DevexclError('lib/Makefile does not build test_hmm: this kernel is too old')
		return text[:anchor.end()] + lines + text[anchor.end():]

	def _with_selftests(self, text: str) -> str:
		"""tools/testing/selftests/Makefile, with our folder among the targets."""
		line = 'TARGETS += devexcl\n'
		text = text.replace(line, '')
		if f'{SELFTESTS}/Makefile' not in self.files:
			return text
		anchor = re.search(r'^TARGETS \+= cpu-hotplug\n', text, re.MULTILINE)
		if not anchor:
			raise DevexclError('tools/testing/selftests/Makefile has no list of TARGETS as we know it')
		return text[:anchor.end()] + line + text[anchor.end():]


def _source_names(repo: Path, roots: tuple[str, ...]) -> list[str]:
	try:
		listing = subprocess.run(['git', '-c', 'safe.directory=*', '-C', str(repo), 'ls-files', '-z',
					  '--cached', '--others', '--exclude-standard', '--', *roots],
					 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
		names = [os.fsdecode(name) for name in listing.split(b'\0') if name]
	except (OSError, subprocess.CalledProcessError):
		names = []
	# Unpacked from an archive, perhaps inside somebody else's repository
	if not names:
		names = [str(path.relative_to(repo)) for root in roots for path in (repo / root).rglob('*')
			 if not any(fnmatch.fnmatch(path.name, pattern) for pattern in PRODUCTS)]
	return sorted(name for name in set(names) if (repo / name).is_file())


def _remove_vanished(tree: Path, files: dict[str, bytes]) -> list[str]:
	"""What an earlier overlay had and this one has not must not be built any more."""
	try:
		earlier = json.loads((tree / RECORD).read_text(encoding='utf-8'))
	except (OSError, ValueError):
		return []
	vanished = [name for name in earlier if name not in files and (tree / name).exists()]
	for name in vanished:
		(tree / name).unlink()
	return vanished


def _write_if_different(path: Path, contents: bytes) -> bool:
	if path.is_file() and path.read_bytes() == contents:
		return False
	path.parent.mkdir(parents=True, exist_ok=True)
	temporary = path.with_name(f'.{path.name}.devexcl')
	temporary.write_bytes(contents)
	if path.exists():
		temporary.chmod(path.stat().st_mode)
	temporary.replace(path)
	return True
