# SPDX-License-Identifier: GPL-2.0
"""Building: kernel, module, tests and init, each kept in the cache as an image.

    builds/<kernel>/		make's folder (O=), where builds are incremental
    images/kernel-<hash>/	what is needed to boot: bzImage, modules, config, ...
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
from typing import Optional

import devexcl_config
import devexcl_overlay
from devexcl_arch import Arch, host_arch
from devexcl_host import (HERE, Lock, cache_dir, hash_of, new_folder, output_of, run_logged, terminal,
			  write_atomically)
from devexcl_source import Source

# Raise this when images come out different although nothing in their hash is.
RECIPE = 1

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
	def bzimage(self) -> Path:
		return self.kernel / 'kernel'

	@property
	def modules(self) -> list[str]:
		return self.manifest['modules']

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


def build(source: Source, variant: Variant, log: Path) -> Image:
	"""Makes what is missing; the image of this source, this overlay and this variant."""
	arch = host_arch()
	image = find(source, variant, arch, log)
	if image:
		return image
	with source.lock():
		source = source.refreshed()	# it may have changed while we waited
		image = find(source, variant, arch, log)
		if image:
			return image
		devexcl_overlay.apply(source.tree)
		kernel = kernel_image(source, variant, arch)
		if not kernel.is_dir():
			_build_kernel(source, variant, arch, kernel, log)
		tests = tests_image(source, arch)
		if not tests.is_dir():
			_build_tests(source, variant, arch, tests, log)
		sweep()
	return find(source, variant, arch, log)


def kernel_image(source: Source, variant: Variant, arch: Arch) -> Path:
	fragments = [path.read_text(encoding='utf-8') for path in
		     devexcl_config.fragments(variant.builtin, variant.debug)]
	return cache_dir() / 'images' / ('kernel-' + hash_of(RECIPE, arch, source.identity, fragments, toolchain(),
							     devexcl_overlay.kernel_part_hash()))


def tests_image(source: Source, arch: Arch) -> Path:
	return cache_dir() / 'images' / ('tests-' + hash_of(RECIPE, arch, source.identity, toolchain(),
							    devexcl_overlay.tests_part_hash()))


def find(source: Source, variant: Variant, arch: Arch, log: Path) -> Optional[Image]:
	kernel, tests = kernel_image(source, variant, arch), tests_image(source, arch)
	if not (kernel.is_dir() and tests.is_dir()):
		return None
	for folder in (kernel, tests):
		os.utime(folder)	# it is in use: not to be swept away
	manifest = json.loads((kernel / 'manifest.json').read_text(encoding='utf-8'))
	return Image(kernel, tests, build_init(log), manifest)


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


def make_command(source: Source, build: Path, arch: Arch) -> list:
	return ['make', '-C', source.tree, f'O={build}', f'ARCH={arch.linux}', f'-j{jobs()}', 'LOCALVERSION=',
		'KBUILD_BUILD_USER=devexcl', 'KBUILD_BUILD_HOST=devexcl']


def _build_kernel(source: Source, variant: Variant, arch: Arch, image: Path, log: Path) -> None:
	build_dir = build_folder(source, variant)
	what = f'Building Linux {source.name}{variant.suffix}'
	with Interrupted(build_dir):
		for text in configure(source, variant, log):
			terminal.say(f'This kernel goes without {text}')
		run_logged([*make_command(source, build_dir, arch), Path(arch.image).name, 'modules'],
			   what=what, log=log)
	_store_kernel(source, variant, arch, image, build_dir)


def ready_build_folder(source: Source, variant: Variant, log: Path) -> Path:
	"""With the lock held: a build folder that modules can be built against."""
	build_dir = build_folder(source, variant)
	if not (build_dir / 'Module.symvers').is_file() or (build_dir / '.devexcl-building').exists():
		devexcl_overlay.apply(source.tree)
		_build_kernel(source, variant, host_arch(), kernel_image(source, variant, host_arch()), log)
	return build_dir


def configure(source: Source, variant: Variant, log: Path) -> list[str]:
	return devexcl_config.configure(source.tree, build_folder(source, variant),
					devexcl_config.fragments(variant.builtin, variant.debug), host_arch(), log)


def _store_kernel(source: Source, variant: Variant, arch: Arch, image: Path, build_dir: Path) -> None:
	with new_folder(image) as folder:
		shutil.copy(build_dir / arch.image, folder / 'kernel')
		shutil.copy(build_dir / 'System.map', folder)
		shutil.copy(build_dir / '.config', folder / 'config')
		shutil.copy(build_dir / 'usr/gen_init_cpio', folder)
		names = []
		for name, _ in devexcl_overlay.modules():
			module = build_dir / 'lib' / f'{name}.ko'
			if not variant.builtin and module.is_file():
				output_of(['strip', '--strip-debug', '-o', str(folder / module.name), str(module)])
				names.append(name)
		config = devexcl_config.parse_config((folder / 'config').read_text(encoding='utf-8'))
		write_atomically(folder / 'manifest.json', json.dumps({
			'source': source.name, 'identity': source.identity, 'origin': source.origin,
			'builtin': variant.builtin, 'debug': variant.debug, 'modules': names,
			'toolchain': toolchain(), 'build_folder': str(build_dir), 'tree': str(source.tree),
			'release': (build_dir / 'include/config/kernel.release').read_text(encoding='utf-8').strip(),
			'debug_info': 'CONFIG_DEBUG_INFO' in config,
		}, indent=1))


# ---- the tests and init ----------------------------------------------------------


def _build_tests(source: Source, variant: Variant, arch: Arch, image: Path, log: Path) -> None:
	"""With the tree's own lib.mk and harness, against its own headers."""
	build_dir = build_folder(source, variant)
	folder = source.tree / devexcl_overlay.SELFTESTS
	output = build_dir / 'devexcl-selftests'
	what = f'Building tests for {source.name}'
	image.parent.mkdir(parents=True, exist_ok=True)
	if not (folder / 'Makefile').is_file():
		with new_folder(image) as new:
			write_atomically(new / 'programs.json', '[]')
		return
	shutil.rmtree(output, ignore_errors=True)
	output.mkdir(parents=True)
	run_logged([*make_command(source, build_dir, arch), 'headers'], what=what, log=log)
	make = ['make', '-C', folder, f'-j{jobs()}', f'OUTPUT={output}', f'ARCH={arch.linux}',
		f'KHDR_INCLUDES=-isystem {build_dir}/usr/include', 'USERLDFLAGS=-static']
	start = log.stat().st_size
	run_logged([*make, 'all'], what=what, log=log)
	with new_folder(image) as new:
		run_logged([*make, 'install', f'INSTALL_PATH={new}'], what=what, log=log)
		emitted = output_of([*map(str, make), '-s', 'emit_tests', 'COLLECTION=devexcl'])
		programs = [line.partition(':')[2] for line in emitted.splitlines() if line.startswith('devexcl:')]
		write_atomically(new / 'programs.json', json.dumps(sorted(programs)))
		write_atomically(new / WARNINGS, ''.join(
			line + '\n' for line in log.read_bytes()[start:].decode('utf-8', 'replace').splitlines()
			if ': warning: ' in line))


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
	lines += [f'file /modules/{name}.ko {image.kernel}/{name}.ko 644 0 0' for name in image.modules]
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
