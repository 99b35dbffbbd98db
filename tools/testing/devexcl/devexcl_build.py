# SPDX-License-Identifier: GPL-2.0
"""Building: kernel, module, tests and init, each kept in the cache as an image.

    builds/<kernel>/		make's folder (O=), where builds are incremental
    images/kernel-<hash>/	what is needed to boot: kernel, modules, config, ...
    images/tests-<hash>/	the test programs as `make install` puts them
    images/init-<hash>/		the first process of the guest

The hash is of all that an image is made of. What is there is not built again;
what is being made stands under another name until it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import devexcl_config
import devexcl_overlay
from devexcl_arch import Arch, host_arch
from devexcl_host import (HERE, DevexclError, Lock, cache_dir, hash_of, new_folder, output_of, run_logged, terminal,
			  write_atomically)
from devexcl_overlay import Overlay
from devexcl_source import Source

# Raise this when images come out different although nothing in their hash is.
RECIPE = 2

# Modules of the kernel's own that are packed as well; who wants one loads it.
PEERS = ('test_hmm',)

# In an image of the tests: what the compiler had to say.
WARNINGS = 'warnings.txt'

IMAGES_KEPT = 24
IMAGE_AGE = 24 * 3600


@dataclass(frozen=True)
class Variant:
	"""Which of the kernels that one source gives."""

	builtin: bool = False
	debug: bool = False

	@property
	def suffix(self) -> str:
		return ('-builtin' if self.builtin else '') + ('-debug' if self.debug else '')


@dataclass(frozen=True)
class Image:
	"""All that a boot needs."""

	kernel: Path
	tests: Path
	init: Path
	manifest: dict

	@property
	def vmlinux(self) -> Path:
		return self.kernel / 'kernel'

	@property
	def modules(self) -> list[str]:
		return self.manifest['modules']

	@property
	def peers(self) -> list[str]:
		return self.manifest.get('peers', [])

	@property
	def programs(self) -> list[str]:
		return json.loads((self.tests / 'programs.json').read_text(encoding='utf-8'))


def build_folder(source: Source, variant: Variant) -> Path:
	# Built in or not, one folder: only the device and the last link differ.
	return cache_dir() / 'builds' / (source.name + ('-debug' if variant.debug else ''))


def toolchain() -> str:
	return '; '.join(output_of([tool, '--version']).splitlines()[0] for tool in ('gcc', 'ld', 'make'))


def jobs() -> str:
	return os.environ.get('J') or str(len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Recipe:
	"""All that an image is made of."""

	source: Source
	variant: Variant
	overlay: Overlay
	arch: Arch
	tools: str

	@property
	def boot_image(self) -> str:
		return self.arch.image_for(self.variant.debug)

	@property
	def fragments(self) -> list[str]:
		return [path.read_text(encoding='utf-8') for path in
			devexcl_config.fragments(self.variant.builtin, self.variant.debug)]

	@property
	def kernel(self) -> Path:
		return cache_dir() / 'images' / ('kernel-' + hash_of(RECIPE, self.arch, self.source.identity,
								     self.fragments, self.tools,
								     self.overlay.kernel_hash()))

	@property
	def config(self) -> str:
		"""All that .config is made of; '' if that is not known."""
		if not self.source.config_identity:
			return ''
		return hash_of(RECIPE, self.arch, self.source.config_identity, self.fragments, self.tools,
			       self.overlay.config_hash())

	@property
	def tests(self) -> Path:
		return cache_dir() / 'images' / ('tests-' + hash_of(RECIPE, self.arch, self.source.identity, self.tools,
								    self.overlay.tests_hash()))

	@property
	def folder(self) -> Path:
		return build_folder(self.source, self.variant)

	def finished(self) -> bool:
		return self.kernel.is_dir() and self.tests.is_dir()

	def image(self, log: Path) -> Image:
		for folder in (self.kernel, self.tests):
			os.utime(folder)	# it is in use: not to be swept away
		manifest = json.loads((self.kernel / 'manifest.json').read_text(encoding='utf-8'))
		return Image(self.kernel, self.tests, build_init(log), manifest)


def recipe(source: Source, variant: Variant) -> Recipe:
	return Recipe(source, variant, Overlay(), host_arch(), toolchain())


def build(source: Source, variant: Variant, log: Path) -> Image:
	"""Makes what is missing; the image of this source, this overlay and this variant."""
	wanted = recipe(source, variant)
	if wanted.finished():
		return wanted.image(log)
	with source.lock():
		# The user's tree may have changed while we waited for the lock.
		wanted = recipe(source.refreshed(), variant)
		wanted.overlay.apply(source.tree)
		if not wanted.kernel.is_dir():
			_build_kernel(wanted, log)
		if not wanted.tests.is_dir():
			_build_tests(wanted, log)
		sweep()
		return wanted.image(log)


def sweep() -> None:
	"""Removes images that have not been used for a day, but for the last few."""
	images = sorted((cache_dir() / 'images').iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
	for image in images[IMAGES_KEPT:]:
		if time.time() - image.stat().st_mtime > IMAGE_AGE:
			shutil.rmtree(image, ignore_errors=True)


# ---- the kernel ---------------------------------------------------------------


class Interrupted:
	"""Guards a build folder against builds that did not come to their end.

	make deletes what it is making when it is interrupted, but not when it is
	killed or the machine stops: then half an object may stand there, newer
	than its source. A mark stands in the folder during a build; whoever finds
	it has what was made last made again.
	"""

	SUSPECT_SECONDS = 60

	def __init__(self, build: Path) -> None:
		self.build = build
		self.mark = build / '.devexcl-building'

	def __enter__(self) -> None:
		if self.mark.exists():
			self._distrust_the_newest()
		self.build.mkdir(parents=True, exist_ok=True)
		self.mark.touch()

	def __exit__(self, kind, *exc) -> None:
		# A compile error is an orderly end; anything else may not be.
		if kind is None or issubclass(kind, Exception):
			self.mark.unlink()

	def _distrust_the_newest(self) -> None:
		"""Removes the targets of the last minute; for each kbuild keeps a .<target>.cmd."""
		targets = []
		for folder, _, names in os.walk(self.build):
			for name in names:
				if name.startswith('.') and name.endswith('.cmd'):
					target = Path(folder) / name[1:-4]
					if target.is_file():
						targets.append((target.stat().st_mtime, target))
		newest = max(targets, default=(0, None))[0]
		for mtime, target in targets:
			if mtime > newest - self.SUSPECT_SECONDS:
				target.unlink()


def make_command(wanted: Recipe) -> list:
	return ['make', '-C', wanted.source.tree, f'O={wanted.folder}', f'ARCH={wanted.arch.linux}', f'-j{jobs()}',
		'LOCALVERSION=', 'KBUILD_BUILD_USER=devexcl', 'KBUILD_BUILD_HOST=devexcl']


def configure(wanted: Recipe, log: Path) -> None:
	"""Configures, unless .config is still the one that came out of the same things the last time."""
	config, record = wanted.folder / '.config', wanted.folder / '.devexcl-configured'
	try:
		made_of, contents, optional = json.loads(record.read_text(encoding='utf-8'))
		current = wanted.config == made_of != '' and hash_of(config.read_bytes()) == contents
	except (OSError, ValueError):
		current = False
	if not current:
		variant = wanted.variant
		optional = devexcl_config.configure(wanted.source.tree, wanted.folder,
						    devexcl_config.fragments(variant.builtin, variant.debug), wanted.arch, log)
		write_atomically(record, json.dumps([wanted.config, hash_of(config.read_bytes()), optional]))
	for text in optional:
		terminal.say(f'This kernel goes without {text}')


def _build_kernel(wanted: Recipe, log: Path) -> None:
	with Interrupted(wanted.folder):
		configure(wanted, log)
		run_logged([*make_command(wanted), Path(wanted.boot_image).name, 'modules'],
			   what=f'Building Linux {wanted.source.name}{wanted.variant.suffix}', log=log)
	_store_kernel(wanted)


def _store_kernel(wanted: Recipe) -> None:
	build_dir, variant = wanted.folder, wanted.variant
	with new_folder(wanted.kernel) as folder:
		shutil.copy(build_dir / wanted.boot_image, folder / 'kernel')
		shutil.copy(build_dir / 'System.map', folder)
		shutil.copy(build_dir / '.config', folder / 'config')
		shutil.copy(build_dir / 'usr/gen_init_cpio', folder)
		names = [] if variant.builtin else _store_modules(wanted, folder, [name for name, _ in wanted.overlay.modules()])
		config = devexcl_config.parse_config((folder / 'config').read_text(encoding='utf-8'))
		write_atomically(folder / 'manifest.json', json.dumps({
			'source': wanted.source.name, 'identity': wanted.source.identity,
			'builtin': variant.builtin, 'debug': variant.debug, 'modules': names,
			'peers': _store_modules(wanted, folder, PEERS), 'toolchain': wanted.tools,
			'tree': str(wanted.source.tree), 'build_folder': str(build_dir),
			'release': (build_dir / 'include/config/kernel.release').read_text(encoding='utf-8').strip(),
			'debug_info': 'CONFIG_DEBUG_INFO' in config,
		}, indent=1))


def _store_modules(wanted: Recipe, folder: Path, names: Sequence[str]) -> list[str]:
	"""Copies those that were built; their names."""
	built = [name for name in names if (wanted.folder / 'lib' / f'{name}.ko').is_file()]
	for name in built:
		output_of(['strip', '--strip-debug', '-o', str(folder / f'{name}.ko'), str(wanted.folder / 'lib' / f'{name}.ko')])
	return built


def ready_build_folder(source: Source, log: Path) -> Path:
	"""With the lock held: a build folder that modules can be built against."""
	wanted = recipe(source.refreshed(), Variant())
	interrupted = Interrupted(wanted.folder).mark.exists()
	if interrupted or not (wanted.folder / 'Module.symvers').is_file():
		wanted.overlay.apply(source.tree)
		_build_kernel(wanted, log)
	return wanted.folder


# ---- the tests and init ----------------------------------------------------------


def _build_tests(wanted: Recipe, log: Path) -> None:
	"""With the tree's own lib.mk and harness, against its own headers."""
	build_dir = wanted.folder
	folder = wanted.source.tree / devexcl_overlay.SELFTESTS
	output = build_dir / 'devexcl-selftests'
	what = f'Building tests for {wanted.source.name}'
	if not (folder / 'Makefile').is_file():
		raise DevexclError(f'There are no tests: {devexcl_overlay.SELFTESTS} has no Makefile')
	run_logged([*make_command(wanted), 'headers'], what=what, log=log)
	make = ['make', '-C', folder, f'-j{jobs()}', f'OUTPUT={output}', f'ARCH={wanted.arch.linux}',
		f'KHDR_INCLUDES=-isystem {build_dir}/usr/include', 'USERLDFLAGS=-static']
	start = log.stat().st_size
	with ObjectsOfTests(output, _basis_of_tests(wanted, make)) as objects:
		run_logged([*make, 'all'], what=what, log=log)
		warnings = [line for line in log.read_bytes()[start:].decode('utf-8', 'replace').splitlines()
			    if ': warning: ' in line]
		objects.keep = not warnings	# else they would not be told again
	with new_folder(wanted.tests) as new:
		run_logged([*make, 'install', f'INSTALL_PATH={new}'], what=what, log=log)
		emitted = output_of([*map(str, make), '-s', 'emit_tests', 'COLLECTION=devexcl'])
		programs = [line.partition(':')[2] for line in emitted.splitlines() if line.startswith('devexcl:')]
		write_atomically(new / 'programs.json', json.dumps(sorted(programs)))
		write_atomically(new / WARNINGS, ''.join(line + '\n' for line in warnings))


class ObjectsOfTests:
	"""The folder in which the tests are made, kept for the next time.

	make sees when a program has to be compiled anew because a .c file has
	changed. When anything else has changed, or the last build was cut short,
	the folder is emptied first.
	"""

	def __init__(self, folder: Path, basis: str) -> None:
		self.folder = folder
		self.basis = basis
		self.record = folder / '.basis'
		self.keep = True

	def __enter__(self) -> 'ObjectsOfTests':
		if not self.record.is_file() or self.record.read_text(encoding='utf-8') != self.basis:
			shutil.rmtree(self.folder, ignore_errors=True)
			self.folder.mkdir(parents=True)
		self.record.unlink(missing_ok=True)
		return self

	def __exit__(self, kind, *exc) -> None:
		# make removes what could not be compiled: an error is an orderly end.
		if self.keep and (kind is None or issubclass(kind, Exception)):
			write_atomically(self.record, self.basis)


def _basis_of_tests(wanted: Recipe, make: list) -> str:
	"""Changes when something changes that make does not know the programs to depend on."""
	selftests = wanted.source.tree / 'tools/testing/selftests'
	files = [*selftests.glob('*.*'), *(selftests / 'devexcl').iterdir(), *(wanted.folder / 'usr/include').rglob('*.h')]
	return hash_of(RECIPE, wanted.tools, list(map(str, make)), [
		(str(path), path.read_bytes()) for path in sorted(files) if path.suffix != '.c' and path.is_file()])


def build_init(log: Path) -> Path:
	"""The guest's first process; independent of the kernel."""
	source = HERE / 'init.c'
	image = cache_dir() / 'images' / ('init-' + hash_of(RECIPE, source.read_bytes(), toolchain()))
	if not image.is_dir():
		with Lock('init'):
			if not image.is_dir():
				with new_folder(image) as folder:
					run_logged(['gcc', '-O2', '-Wall', '-Wextra', '-Werror', '-static', '-o', folder / 'init',
						    source], what='Building init', log=log)
	return image / 'init'


# ---- the initramfs ------------------------------------------------------------------

FOLDERS = ('bin', 'dev', 'dev/pts', 'dev/shm', 'dev/hugepages', 'devexcl', 'modules', 'proc', 'sys', 'tmp')


def make_initramfs(image: Image, path: Path, shell: bool = False) -> None:
	"""Packs the guest's files, with the kernel's own tool, which needs no root for device nodes."""
	lines = [f'dir /{name} 755 0 0' for name in FOLDERS]
	lines += ['nod /dev/console 600 0 0 c 5 1', 'nod /dev/null 666 0 0 c 1 3', f'file /init {image.init} 755 0 0']
	lines += [f'file /modules/{name}.ko {image.kernel}/{name}.ko 644 0 0' for name in image.modules + image.peers]
	for source in sorted(image.tests.rglob('*')):
		name = source.relative_to(image.tests)
		if source.is_dir():
			lines.append(f'dir /devexcl/{name} 755 0 0')
		else:
			lines.append(f'file /devexcl/{name} {source} {source.stat().st_mode & 0o777:o} 0 0')
	order = path.with_suffix('.order')
	order.write_text('\n'.join(image.modules), encoding='utf-8')
	lines.append(f'file /modules/order {order} 644 0 0')
	if shell:
		busybox = shutil.which('busybox')
		lines.append(f'file /bin/busybox {busybox} 755 0 0')
		lines += [f'slink /bin/{name} busybox 777 0 0' for name in output_of([busybox, '--list']).split()
			  if name != 'busybox']
	spec = path.with_suffix('.list')
	spec.write_text('\n'.join(lines) + '\n', encoding='utf-8')
	with path.open('wb') as file:
		subprocess.run([image.kernel / 'gen_init_cpio', spec], stdout=file, check=True)
	order.unlink()
	spec.unlink()
