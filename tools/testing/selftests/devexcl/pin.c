// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel itself uses pages that a device holds: it copies to and from them,
 * pins them for a moment or for long, and puts breakpoints there
 *
 * A page that is pinned is not moved or replaced, and a device may acquire it:
 * then device and whoever pinned it work on the same page.
 */
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/loop.h>
#include <linux/perf_event.h>

#include "../kselftest.h"
#include "devexcl_matrix.h"

/* Of the kernel's mm/gup_test.h, which is not for user space */
#define GUP_TEST_FILE		"/sys/kernel/debug/gup_test"
#define GUP_BASIC_TEST		_IOWR('g', 4, struct gup_test)
#define PIN_FAST_BENCHMARK	_IOWR('g', 2, struct gup_test)
#define PIN_LONGTERM_BENCHMARK	_IOWR('g', 3, struct gup_test)
#define PIN_LONGTERM_TEST_START	_IOW('g', 7, struct pin_longterm_test)
#define PIN_LONGTERM_TEST_STOP	_IO('g', 8)
#define PIN_LONGTERM_TEST_READ	_IOW('g', 9, __u64)
#define PIN_LONGTERM_TEST_FLAG_USE_WRITE	1
#define FOLL_WRITE		1

struct gup_test {
	__u64 get_delta_usec;
	__u64 put_delta_usec;
	__u64 addr;
	__u64 size;
	__u32 nr_pages_per_call;
	__u32 gup_flags;
	__u32 test_flags;
	__u32 which_pages[8];
};

struct pin_longterm_test {
	__u64 addr;
	__u64 size;
	__u32 flags;
};

/* The word that the device changes while somebody else has the page as well. */
#define PIN_WORD	2
#define PIN_ADDS	0x0123456789abcdefULL

#define for_each_target(cell, page)					\
	for ((page) = (cell)->first;					\
	     (page) < (cell)->first + (cell)->pages; (page)++)

/* Copying */

/* A page for each of the target, to compare or to copy from. */
static char *make_buffer(const struct cell *cell)
{
	char *p = mmap(NULL, target_size(cell), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static char *buffer_of(const struct cell *cell, char *buffer, size_t page)
{
	return buffer + (page - cell->first) * page_size();
}

/* In the buffer is what the target holds. */
static const char *check_buffer(const struct cell *cell, char *buffer)
{
	const char *verdict;
	size_t page;

	for_each_target(cell, page) {
		verdict = check_page(cell, page, buffer_of(cell, buffer, page),
				     false);
		if (verdict)
			return verdict;
	}
	return NULL;
}

/*
 * Fill the buffer with what the target holds after somebody wrote to all pages
 * of it that the device has, as the device does.
 */
static void fill_buffer(struct cell *cell, char *buffer)
{
	size_t page, i;

	for_each_target(cell, page) {
		uint64_t *words = (uint64_t *)buffer_of(cell, buffer, page);

		if (cell->held[page])
			cell->held[page]++;
		for (i = 0; i < page_size() / sizeof(*words); i++)
			words[i] = expected_word(cell, page, i);
	}
}

/* Copies between target and buffer; bytes or -1, as read() and write() */
typedef ssize_t copy_function(void *target, void *buffer, size_t size);

/* The kernel reads: it gets what the device wrote. */
static const char *kernel_reads(struct cell *cell, const char *what,
				copy_function *copy)
{
	char *buffer = make_buffer(cell);
	ssize_t done = copy(target(cell), buffer, target_size(cell));

	TRY(must(what, done));
	if ((size_t)done != target_size(cell))
		return fail("%s: only %zd bytes", what, done);
	return check_buffer(cell, buffer);
}

/* The kernel writes: CPU and device get that. */
static const char *kernel_writes(struct cell *cell, const char *what,
				 copy_function *copy)
{
	char *buffer = make_buffer(cell);
	ssize_t done;

	fill_buffer(cell, buffer);
	done = copy(target(cell), buffer, target_size(cell));
	TRY(must(what, done));
	return (size_t)done == target_size(cell) ? NULL :
	       fail("%s: only %zd bytes", what, done);
}

/* Another process's view of us: process_vm_*() and /proc/pid/mem */

static ssize_t copy_process_vm_read(void *target, void *buffer, size_t size)
{
	struct iovec from = { target, size }, to = { buffer, size };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0);
}

static ssize_t copy_process_vm_write(void *target, void *buffer, size_t size)
{
	struct iovec from = { buffer, size }, to = { target, size };

	return process_vm_writev(getpid(), &from, 1, &to, 1, 0);
}

static ssize_t copy_proc_mem_write(void *target, void *buffer, size_t size)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	ssize_t done = pwrite(fd, buffer, size, (uintptr_t)target);

	close(fd);
	return done;
}

static const char *act_process_vm_read(struct cell *cell)
{
	return kernel_reads(cell, "process_vm_readv", copy_process_vm_read);
}

static const char *act_process_vm_write(struct cell *cell)
{
	return kernel_writes(cell, "process_vm_writev", copy_process_vm_write);
}

static const char *act_proc_mem_write(struct cell *cell)
{
	return kernel_writes(cell, "/proc/self/mem", copy_proc_mem_write);
}

/* Copying by faults */

static ssize_t copy_file_read(void *target, void *buffer, size_t size)
{
	int fd = memfd_create("devexcl", MFD_CLOEXEC);
	ssize_t done = pwrite(fd, buffer, size, 0);

	if (done > 0)
		done = pread(fd, target, size, 0);
	close(fd);
	return done;
}

static const char *act_file_read(struct cell *cell)
{
	return kernel_writes(cell, "read", copy_file_read);
}

/* Direct I/O, to a block device that has a file in memory behind it */

static int disk = -1;

static const char *open_disk(int file)
{
	struct loop_config config = {
		.fd = file,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR,
	};
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	char name[32];

	if (control < 0)
		return skip("no loop devices: %s", strerror(errno));
	snprintf(name, sizeof(name), "/dev/loop%d",
		 ioctl(control, LOOP_CTL_GET_FREE));
	close(control);
	disk = open(name, O_RDWR | O_CLOEXEC | O_DIRECT);
	TRY(must(name, disk));
	return must("LOOP_CONFIGURE", ioctl(disk, LOOP_CONFIGURE, &config));
}

static const char *prepare_disk(struct cell *cell)
{
	int file = memfd_create("devexcl-disk", MFD_CLOEXEC);

	TRY(must("memfd_create", file));
	TRY(must("ftruncate", ftruncate(file, target_size(cell))));
	TRY(open_disk(file));
	return must("close", close(file));
}

static const char *finish_disk(struct cell *cell)
{
	(void)cell;
	return must("close", close(disk));
}

/* From the target to the disk, and from there to the buffer. */
static ssize_t copy_direct_write(void *target, void *buffer, size_t size)
{
	ssize_t done = pwrite(disk, target, size, 0);

	return done < 0 ? done : pread(disk, buffer, size, 0);
}

static ssize_t copy_direct_read(void *target, void *buffer, size_t size)
{
	ssize_t done = pwrite(disk, buffer, size, 0);

	return done < 0 ? done : pread(disk, target, size, 0);
}

static const char *act_direct_write(struct cell *cell)
{
	return kernel_reads(cell, "O_DIRECT write", copy_direct_write);
}

static const char *act_direct_read(struct cell *cell)
{
	return kernel_writes(cell, "O_DIRECT read", copy_direct_read);
}

static ssize_t copy_aio_read(void *target, void *buffer, size_t size)
{
	struct iocb iocb = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = disk,
		.aio_buf = (uintptr_t)target,
		.aio_nbytes = size,
	}, *iocbs = &iocb;
	struct io_event event = { .res = -EIO };
	aio_context_t context = 0;
	ssize_t done = pwrite(disk, buffer, size, 0);

	if (done < 0 || syscall(SYS_io_setup, 1, &context))
		return -1;
	if (syscall(SYS_io_submit, context, 1, &iocbs) == 1)
		syscall(SYS_io_getevents, context, 1, 1, &event, NULL);
	syscall(SYS_io_destroy, context);
	return event.res;
}

static const char *act_aio_read(struct cell *cell)
{
	return kernel_writes(cell, "AIO read", copy_aio_read);
}

/* Pins for a moment */

/* @arg: which of the tests that the kernel offers */
static const char *act_gup(struct cell *cell)
{
	struct gup_test arg = {
		.addr = (uintptr_t)target(cell),
		.size = target_size(cell),
		.nr_pages_per_call = cell->pages,
		.gup_flags = cell->op->arg == GUP_BASIC_TEST ? 0 : FOLL_WRITE,
	};
	int ret, fd = open(GUP_TEST_FILE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return skip("no gup_test: %s", strerror(errno));
	ret = ioctl(fd, cell->op->arg, &arg);
	close(fd);
	TRY(must("gup_test", ret));
	return arg.size == target_size(cell) ? NULL :
	       fail("only %llu bytes were pinned", (unsigned long long)arg.size);
}

/* Pins for long */

/*
 * Have the device add to a word of a page that it has acquired. Who tries to
 * move a pinned page takes it from the device, though in vain.
 */
static int add_to_pinned(struct cell *cell, size_t page, uint64_t value,
			 uint64_t *old)
{
	char *p = page_of(&cell->mem, page);
	int ret;

	do
		ret = dev_add(&cell->dev, (uint64_t *)p + PIN_WORD, value, old);
	while (ret == -EACCES && cell->rounds &&
	       !dev_acquire_one(&cell->dev, p));
	return ret;
}

/*
 * Each page of the target that the device had: acquire it, and have the device
 * change it. Whoever pinned the page must see that.
 */
static const char *device_adds(struct cell *cell, uint64_t value)
{
	size_t page;

	for_each_target(cell, page) {
		if (!cell->held[page])
			continue;
		TRY(must("acquire a pinned page",
			 dev_acquire_one(&cell->dev,
					 page_of(&cell->mem, page))));
		TRY(must("atomic operation",
			 add_to_pinned(cell, page, value, NULL)));
	}
	return NULL;
}

/* In the buffer is what the device changed. */
static const char *check_added(const struct cell *cell, char *buffer)
{
	size_t page;

	for_each_target(cell, page) {
		uint64_t *words = (uint64_t *)buffer_of(cell, buffer, page);
		uint64_t want = expected_word(cell, page, PIN_WORD);

		if (cell->held[page])
			want += PIN_ADDS;
		if (words[PIN_WORD] != want)
			return fail("who pinned page %zu sees %#llx, expected %#llx",
				    page, (unsigned long long)words[PIN_WORD],
				    (unsigned long long)want);
		/* All else is as before. */
		words[PIN_WORD] = expected_word(cell, page, PIN_WORD);
	}
	return check_buffer(cell, buffer);
}

/*
 * Whoever pinned the target, and reads it with @read, sees what the device
 * writes, again after the CPU had the pages, which sees the same.
 */
static const char *check_shared(struct cell *cell,
				const char *(*read)(struct cell *cell,
						    char *buffer))
{
	char *buffer = make_buffer(cell);

	TRY(device_adds(cell, PIN_ADDS));
	TRY(read(cell, buffer));
	TRY(check_added(cell, buffer));
	memcpy(buffer, target(cell), target_size(cell));
	TRY(check_added(cell, buffer));
	TRY(device_adds(cell, -PIN_ADDS));
	TRY(read(cell, buffer));
	return check_buffer(cell, buffer);
}

static int gup_file = -1;

static const char *read_pinned(struct cell *cell, char *buffer)
{
	__u64 where = (uintptr_t)buffer;

	(void)cell;
	return must("read what is pinned",
		    ioctl(gup_file, PIN_LONGTERM_TEST_READ, &where));
}

static const char *act_pin(struct cell *cell)
{
	struct pin_longterm_test arg = {
		.addr = (uintptr_t)target(cell),
		.size = target_size(cell),
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	char *buffer = make_buffer(cell);

	gup_file = open(GUP_TEST_FILE, O_RDWR | O_CLOEXEC);
	if (gup_file < 0)
		return skip("no gup_test: %s", strerror(errno));
	if (ioctl(gup_file, PIN_LONGTERM_TEST_START, &arg)) {
		if (errno == EINVAL || errno == ENOTTY)
			return skip("gup_test cannot keep pages pinned");
		return must("PIN_LONGTERM_TEST_START", -1);
	}
	TRY(read_pinned(cell, buffer));
	return check_buffer(cell, buffer);
}

static const char *finish_pin(struct cell *cell)
{
	TRY(check_shared(cell, read_pinned));
	TRY(must("unpin", ioctl(gup_file, PIN_LONGTERM_TEST_STOP)));
	return must("close", close(gup_file));
}

/* A pipe that has the pages themselves in it; @arg are flags */

static int pipe_of_pages[2];

static const char *act_vmsplice(struct cell *cell)
{
	struct iovec from = { target(cell), target_size(cell) };
	ssize_t done;

	TRY(must("pipe", pipe2(pipe_of_pages, O_CLOEXEC)));
	done = vmsplice(pipe_of_pages[1], &from, 1, cell->op->arg);
	TRY(must("vmsplice", done));
	return (size_t)done == target_size(cell) ? NULL :
	       fail("vmsplice: only %zd bytes", done);
}

static const char *finish_vmsplice(struct cell *cell)
{
	char *buffer = make_buffer(cell);

	TRY(device_adds(cell, PIN_ADDS));
	TRY(must("read", read(pipe_of_pages[0], buffer, target_size(cell))));
	TRY(check_added(cell, buffer));
	TRY(device_adds(cell, -PIN_ADDS));
	close(pipe_of_pages[0]);
	return must("close", close(pipe_of_pages[1]));
}

/* Buffers that are registered with io_uring */

/**
 * struct ring - as much of io_uring as one operation at a time takes
 * @fd: the ring
 * @file: what is read from and written to
 * @memory: the rings
 * @params: where things are in there
 * @sqes: submission queue entries
 */
static struct ring {
	int fd;
	int file;
	char *memory;
	struct io_uring_params params;
	struct io_uring_sqe *sqes;
} ring;

static const char *open_ring(void)
{
	ring.fd = syscall(SYS_io_uring_setup, 1, &ring.params);
	if (ring.fd < 0)
		return skip("no io_uring: %s", strerror(errno));
	ring.memory = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_POPULATE, ring.fd,
			   IORING_OFF_SQ_RING);
	ring.sqes = mmap(NULL, page_size(), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	if (ring.memory == MAP_FAILED || ring.sqes == MAP_FAILED)
		return must("mmap", -1);
	if (!(ring.params.features & IORING_FEAT_SINGLE_MMAP))
		return skip("io_uring is too old");
	ring.file = memfd_create("devexcl", MFD_CLOEXEC);
	return must("memfd_create", ring.file);
}

static unsigned int *in_ring(unsigned int offset)
{
	return (unsigned int *)(ring.memory + offset);
}

/* Read or write the registered buffer, all of it; bytes or -1. */
static ssize_t transfer_fixed(struct cell *cell, int opcode)
{
	unsigned int *tail = in_ring(ring.params.sq_off.tail);
	unsigned int *head = in_ring(ring.params.cq_off.head);
	struct io_uring_cqe *cqes;

	memset(ring.sqes, 0, sizeof(*ring.sqes));
	ring.sqes->opcode = opcode;
	ring.sqes->fd = ring.file;
	ring.sqes->addr = (uintptr_t)target(cell);
	ring.sqes->len = target_size(cell);
	*in_ring(ring.params.sq_off.array) = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS,
		    NULL, 0) != 1)
		return -1;
	cqes = (void *)in_ring(ring.params.cq_off.cqes);
	cqes += *head & *in_ring(ring.params.cq_off.ring_mask);
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return cqes->res;
}

/* What io_uring writes to a file from its buffer. */
static const char *read_fixed(struct cell *cell, char *buffer)
{
	ssize_t done = transfer_fixed(cell, IORING_OP_WRITE_FIXED);

	if (done != (ssize_t)target_size(cell))
		return fail("IORING_OP_WRITE_FIXED: %zd", done);
	return must("read", pread(ring.file, buffer, target_size(cell), 0));
}

static const char *act_uring(struct cell *cell)
{
	struct iovec buffers = { target(cell), target_size(cell) };
	char *buffer = make_buffer(cell);

	TRY(open_ring());
	if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS,
		    &buffers, 1)) {
		if (errno == EOPNOTSUPP && cell->backing->traits & TRAIT_FILE)
			return skip("io_uring does not take this file's memory");
		return must("IORING_REGISTER_BUFFERS", -1);
	}
	TRY(read_fixed(cell, buffer));
	return check_buffer(cell, buffer);
}

/* Nobody tells the device of what the kernel does with pinned pages. */
static const char *look_into_device(struct cell *cell, uint64_t added)
{
	uint64_t old;
	size_t page;

	for_each_target(cell, page) {
		if (!cell->held[page])
			continue;
		TRY(must("atomic operation",
			 add_to_pinned(cell, page, -added, &old)));
		if (old != expected_word(cell, page, PIN_WORD) + added)
			return fail("the device does not see what io_uring wrote to page %zu",
				    page);
	}
	return NULL;
}

/* io_uring writes to the pages while the device has them. */
static const char *finish_uring(struct cell *cell)
{
	ssize_t done;

	TRY(check_shared(cell, read_fixed));
	/* Now the file has what the pages had; let it have something else. */
	TRY(device_adds(cell, PIN_ADDS));
	TRY(read_fixed(cell, make_buffer(cell)));
	TRY(device_adds(cell, -PIN_ADDS));
	done = transfer_fixed(cell, IORING_OP_READ_FIXED);
	if (done != (ssize_t)target_size(cell))
		return fail("IORING_OP_READ_FIXED: %zd", done);
	TRY(look_into_device(cell, PIN_ADDS));
	TRY(must("IORING_UNREGISTER_BUFFERS",
		 syscall(SYS_io_uring_register, ring.fd,
			 IORING_UNREGISTER_BUFFERS, NULL, 0)));
	return must("close", close(ring.fd));
}

/* Futexes */

/* The kernel reads the word, and as it is not what we say nobody waits. */
static const char *act_futex_wait(struct cell *cell)
{
	size_t page;
	long ret;

	for_each_target(cell, page) {
		uint32_t value = expected_word(cell, page, 0);

		ret = syscall(SYS_futex, page_of(&cell->mem, page),
			      FUTEX_WAIT_PRIVATE, value + 1, NULL, NULL, 0);
		if (!ret || errno != EAGAIN)
			return fail("FUTEX_WAIT: %s",
				    ret ? strerror(errno) : "woken");
	}
	return NULL;
}

/* The kernel looks which page that is, in case another process has it, too. */
static const char *act_futex_wake(struct cell *cell)
{
	size_t page;

	for_each_target(cell, page)
		TRY(must("FUTEX_WAKE",
			 syscall(SYS_futex, page_of(&cell->mem, page),
				 FUTEX_WAKE, 1, NULL, NULL, 0)));
	return NULL;
}

/* Add 1 << @shift to a word, with nobody being woken. */
static long futex_add(uint32_t *word, unsigned int shift)
{
	uint32_t how = FUTEX_OP_ADD | FUTEX_OP_OPARG_SHIFT;
	static uint32_t other;

	return syscall(SYS_futex, &other, FUTEX_WAKE_OP_PRIVATE, 1, 1, word,
		       FUTEX_OP(how, shift, FUTEX_OP_CMP_EQ, 0));
}

/* The kernel does to the device's word what the device does, by halves. */
static const char *act_futex_wake_op(struct cell *cell)
{
	size_t page;

	for_each_target(cell, page) {
		uint32_t *word = (uint32_t *)(word_of(&cell->mem, page) + 1);

		if (!cell->held[page])
			continue;
		TRY(must("FUTEX_WAKE_OP", futex_add(&word[0], 0)));
		TRY(must("FUTEX_WAKE_OP", futex_add(&word[1], 16)));
		cell->held[page]++;
	}
	return NULL;
}

/* Breakpoints */

#define X86_NOP		0x90
#define X86_BREAKPOINT	0xcc
#define MAX_PROBES	16
#define UPROBE_TYPE	"/sys/bus/event_source/devices/uprobe/type"

static int probes[MAX_PROBES];

/* Where in the page's pattern, and behind the words in use, is a nop? */
static size_t find_nop(const struct cell *cell, size_t page)
{
	size_t i = (PIN_WORD + 1) * sizeof(uint64_t);

	for (; i < page_size(); i++)
		if ((unsigned char)(expected_word(cell, page, i / 8) >>
				    i % 8 * 8) == X86_NOP)
			break;
	return i;
}

/* A breakpoint takes the place of an instruction of the file. */
static const char *open_probe(struct cell *cell, size_t page)
{
	struct perf_event_attr attr = { .size = sizeof(attr) };
	char nop = X86_NOP, name[32];
	long type = read_number(UPROBE_TYPE);
	int fd;

	if (type < 0)
		return skip("no uprobes");
	snprintf(name, sizeof(name), "/proc/self/fd/%d", cell->fd);
	attr.type = type;
	attr.uprobe_path = (uintptr_t)name;
	attr.probe_offset = page * page_size() + find_nop(cell, page);
	TRY(must("pwrite", pwrite(cell->fd, &nop, 1, attr.probe_offset)));
	fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	TRY(must("perf_event_open", fd));
	probes[page - cell->first] = fd;
	if (READ_MEM((unsigned char *)page_of(&cell->mem, page) +
		     find_nop(cell, page)) != X86_BREAKPOINT)
		return fail("there is no breakpoint in page %zu", page);
	return NULL;
}

static const char *open_probes(struct cell *cell)
{
	size_t page;

	for_each_target(cell, page)
		TRY(open_probe(cell, page));
	return NULL;
}

static const char *close_probes(struct cell *cell)
{
	size_t page;

	for_each_target(cell, page)
		TRY(must("close", close(probes[page - cell->first])));
	return NULL;
}

/* Make the target code, or data again: what is writable gets no breakpoints. */
static const char *make_code(struct cell *cell, bool code)
{
	int prot = code ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE;

	if (!mprotect(target(cell), target_size(cell), prot))
		return NULL;
	if (errno == EACCES)
		return skip("this file cannot be executed");
	return must("mprotect", -1);
}

/* The entry is still exclusive when the breakpoint comes. */
static const char *act_uprobe(struct cell *cell)
{
	TRY(make_code(cell, true));
	TRY(open_probes(cell));
	TRY(close_probes(cell));
	return make_code(cell, false);
}

static const char *prepare_uprobe(struct cell *cell)
{
	TRY(make_code(cell, true));
	TRY(open_probes(cell));
	return make_code(cell, false);
}

/* The device has the pages, and breakpoints in them, when these go. */
static const char *act_uprobe_removed(struct cell *cell)
{
	return close_probes(cell);
}

/* What can be moved is moved before it is pinned for long, as a whole. */
#define DEVICE_LOSES_AS_BY_LONG_PIN					\
	{ TAKEN, CAUSE_FAULT, ENTRY_IS(PRESENT), DATA_KEPT,		\
	  .splits = SPLITS_FOLIO }

#define NEEDS_CODE							\
	.needs = { TRAIT_FILE, "breakpoints are for mappings of files" }, \
	.except = { TRAIT_DRIVER, "a driver's file is not for code" }

static const struct operation ops[] = {
	{
		.name = "process_vm_read",
		.act = act_process_vm_read,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "process_vm_write",
		.act = act_process_vm_write,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "proc_mem_write",
		.act = act_proc_mem_write,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "file_read",
		.act = act_file_read,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "direct_write",
		.prepare = prepare_disk, .act = act_direct_write,
		.finish = finish_disk,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "direct_read",
		.prepare = prepare_disk, .act = act_direct_read,
		.finish = finish_disk,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "aio_read",
		.prepare = prepare_disk, .act = act_aio_read,
		.finish = finish_disk,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
		.needs = { TRAIT_TYPICAL,
			   "AIO takes long to end; direct_read is like it" },
	}, {
		.name = "gup",
		.act = act_gup, .arg = GUP_BASIC_TEST,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "pin_fast",
		.act = act_gup, .arg = PIN_FAST_BENCHMARK,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "pin_longterm",
		.act = act_gup, .arg = PIN_LONGTERM_BENCHMARK,
		.expect = DEVICE_LOSES_AS_BY_LONG_PIN,
	}, {
		.name = "pinned",
		.act = act_pin, .finish = finish_pin,
		.expect = DEVICE_LOSES_AS_BY_LONG_PIN,
	}, {
		.name = "vmsplice",
		.act = act_vmsplice, .finish = finish_vmsplice,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "vmsplice_gift",
		.act = act_vmsplice, .arg = SPLICE_F_GIFT,
		.finish = finish_vmsplice,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "uring_fixed",
		.act = act_uring, .finish = finish_uring,
		.expect = DEVICE_LOSES_AS_BY_LONG_PIN,
	}, {
		.name = "futex_wait",
		.act = act_futex_wait,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "futex_wake",
		.act = act_futex_wake,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "futex_wake_op",
		.act = act_futex_wake_op,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
	}, {
		.name = "uprobe",
		.act = act_uprobe,
		.expect = { TAKEN, CAUSE(PROTECTION_VMA), ENTRY_IS(PRESENT),
			    DATA_KEPT },
		NEEDS_CODE,
	}, {
		.name = "uprobe_removed",
		.prepare = prepare_uprobe, .act = act_uprobe_removed,
		.expect = DEVICE_LOSES_AS_BY_FAULT,
		NEEDS_CODE,
	},
};

int main(int argc, char **argv)
{
	return matrix_main("pin", ops, ARRAY_SIZE(ops), argc, argv);
}
