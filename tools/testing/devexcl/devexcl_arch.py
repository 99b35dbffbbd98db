# SPDX-License-Identifier: GPL-2.0
"""What differs between architectures: the only place that knows (cf. kunit's qemu_configs)."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field

from devexcl_host import DevexclError


@dataclass(frozen=True)
class Arch:
	"""One architecture that can be built for and booted."""

	linux: str			# ARCH= of the kernel's make
	source: str			# its folder under arch/
	image: str			# what QEMU boots, in the build folder
	qemu: str
	machine: str
	console: str
	# Accelerators, best first, with the CPU model that is right for each.
	# QEMU 7.2 emulates cmpxchg16b in a way that crashes guests at random. An
	# emulated "rep stosb", with which kernels clear pages if it is said to be
	# fast, writes byte by byte; and a fifth level of page tables is one more to
	# look at for each entry of the TLB, which is emptied all the time.
	accelerators: tuple[tuple[str, str], ...]
	cmdline: tuple[str, ...] = field(default=())
	# The same for a kernel with KASAN, if that cannot be booted in this way.
	debug_image: str = field(default='', repr=False)

	debug_machine: str = field(default='', repr=False)

	def image_for(self, debug: bool) -> str:
		return debug and self.debug_image or self.image

	def machine_for(self, debug: bool) -> str:
		return debug and self.debug_machine or self.machine


ARCHES = {
	'x86_64': Arch(
		linux='x86_64',
		source='x86',
		# By way of PVH: there is nothing to compress, and nothing to unpack.
		image='vmlinux',
		qemu='qemu-system-x86_64',
		machine='pc',
		console='ttyS0',
		accelerators=(('kvm', 'host'), ('tcg', 'max,-cx16,-erms,-fsrm,-la57')),
		# Neither the keyboard controller nor the BIOS has anything to say here.
		# xen_prepare_pvh() comes to memcmp() before there is a shadow, if the compiler does not inline it.
		debug_image='arch/x86/boot/bzImage',
		# KASAN watches each step of ACPI's interpreter, which is too slow then for its own limit; here it has less to do.
		debug_machine='q35',
		cmdline=('reboot=t', 'i8042.noaux', 'tsc=reliable'),
	),
}


def host_arch() -> Arch:
	machine = platform.machine()
	try:
		return ARCHES[machine]
	except KeyError:
		raise DevexclError(f'This machine is {machine}; so far only '
				   f'{", ".join(ARCHES)} can be built and booted.') from None
