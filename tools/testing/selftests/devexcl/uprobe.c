// SPDX-License-Identifier: GPL-2.0
/*
 * A breakpoint is taken out of a page of code while a device acquires the page
 *
 * A uprobe that nobody is interested in any more is removed when it is hit. The
 * kernel looks the page up, counts a semaphore of the program down, and replaces
 * the page. Some kernels have the mmap_lock for reading only meanwhile, so that
 * the device can make the page exclusive in between. Here it does so with
 * certainty: the semaphore is in a page that the device holds as well, so that
 * the kernel has to take that one back, and a breakpoint of the device
 * (DEVEXCL_BREAKPOINT) stops it there. On other kernels the device has to wait.
 *
 * What uprobes do to pages that are exclusive before is a matter of the matrix.
 */
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

#include "devexcl_test.h"

#define UPROBE_TYPE	"/sys/bus/event_source/devices/uprobe/type"

#define X86_NOP		0x90
#define X86_RET		0xc3
#define X86_BREAKPOINT	0xcc

/* A page of code, with data at its end, and one with the semaphore. */
#define CODE		0
#define SEMAPHORE	1
#define PAGES		2

FIXTURE(uprobe) {
	struct dev dev;
	struct mem mem;
	int file;
	int event;
	uint64_t *data;
};

static int uprobe_type(void)
{
	FILE *file = fopen(UPROBE_TYPE, "r");
	int type;

	if (!file)
		return -1;
	if (fscanf(file, "%d", &type) != 1)
		type = -1;
	fclose(file);
	return type;
}

/* A breakpoint that the calling thread is interested in, or -errno. */
static int set_breakpoint(int file)
{
	struct perf_event_attr attr = { .size = sizeof(attr) };
	char name[32];
	int fd;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", file);
	attr.type = uprobe_type();
	attr.uprobe_path = (uintptr_t)name;
	attr.probe_offset = CODE * page_size();
	attr.config = (uint64_t)SEMAPHORE * page_size() << 32;
	fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	return fd < 0 ? -errno : fd;
}

/**
 * struct hired - a thread that sets a breakpoint and goes
 * @file: in: where
 * @event: out: the breakpoint's event
 * @tid: out: the thread
 */
struct hired {
	int file;
	int event;
	pid_t tid;
};

static void *set_breakpoint_and_go(void *arg)
{
	struct hired *hired = arg;

	hired->tid = gettid();
	hired->event = set_breakpoint(hired->file);
	return NULL;
}

/*
 * Set a breakpoint in this process that nobody is interested in: neither is the
 * thread that wanted it any more, nor is the event closed.
 */
static int set_useless_breakpoint(int file)
{
	struct hired hired = { .file = file };
	pthread_t thread;
	int ret = pthread_create(&thread, NULL, set_breakpoint_and_go, &hired);

	if (ret)
		return -ret;
	pthread_join(thread, NULL);
	while (!syscall(SYS_tgkill, getpid(), hired.tid, 0))
		sched_yield();
	return hired.event;
}

/* A function that does nothing, in a private mapping of a file. */
static void map_function(struct __test_metadata *_metadata,
			 FIXTURE_DATA(uprobe) *self)
{
	const unsigned char code[] = { X86_NOP, X86_RET };
	struct mem *mem = &self->mem;

	self->file = memfd_create("function", MFD_CLOEXEC);
	ASSERT_LE(0, self->file);
	mem->pages = PAGES;
	mem->size = PAGES * page_size();
	ASSERT_EQ(0, ftruncate(self->file, mem->size));
	ASSERT_EQ(sizeof(code), pwrite(self->file, code, sizeof(code), 0));
	mem->p = mmap(NULL, mem->size, PROT_READ | PROT_WRITE, MAP_PRIVATE,
		      self->file, 0);
	ASSERT_NE(MAP_FAILED, mem->p);
	self->data = word_of(mem, CODE) + page_size() / 8 - 1;
}

FIXTURE_SETUP(uprobe)
{
	if (uprobe_type() < 0)
		SKIP_SETUP("no uprobes");
	setup_device(_metadata, &self->dev, 0);
	map_function(_metadata, self);
	ASSERT_EQ(0, dev_mirror(&self->dev, self->mem.p, self->mem.size));
	/* What is writable gets no breakpoints; the semaphore must be. */
	if (mprotect(self->mem.p, page_size(), PROT_READ | PROT_EXEC))
		SKIP_SETUP("mprotect: %s", strerror(errno));
	self->event = set_useless_breakpoint(self->file);
	ASSERT_LE(0, self->event)
		TH_LOG("perf_event_open: %s", strerror(-self->event));
	ASSERT_EQ(X86_BREAKPOINT, READ_MEM((unsigned char *)self->mem.p));
	ASSERT_EQ(0, mprotect(self->mem.p, page_size(),
			      PROT_READ | PROT_WRITE | PROT_EXEC));
}

FIXTURE_TEARDOWN(uprobe)
{
	close(self->event);
	mem_unmap(&self->mem);
	close(self->file);
	dev_close(&self->dev);
}

static void *call_function(void *function)
{
	((void (*)(void))function)();
	return NULL;
}

static const char *check_function(FIXTURE_DATA(uprobe) *self)
{
	if (READ_MEM((unsigned char *)self->mem.p) != X86_NOP)
		return "the breakpoint is still there";
	if (READ_MEM((uint16_t *)page_of(&self->mem, SEMAPHORE)))
		return "the semaphore is not back at 0";
	return NULL;
}

/**
 * struct acquirer - a thread that acquires the page as soon as it can
 * @self: the fixture
 * @stopped: it waits until the kernel has stopped here
 * @progress: how far it is with that
 * @ret: what came of it
 */
struct acquirer {
	FIXTURE_DATA(uprobe) *self;
	int stopped;
	struct progress progress;
	int ret;
};

static void *acquire_and_add(void *arg)
{
	struct acquirer *acquirer = arg;
	uint64_t *data = acquirer->self->data;
	struct dev *dev = &acquirer->self->dev;
	char *page = acquirer->self->mem.p;
	unsigned int tries = 10;
	int ret;

	ret = wait_for_break(acquirer->stopped, STOP_SECONDS);
	progress_begin(&acquirer->progress);
	/* Until it is used the kernel may take it back. */
	do
		acquirer->ret = ret ?: dev_acquire_one(dev, page) ?:
				dev_add(dev, data, 1, NULL);
	while (acquirer->ret == -EACCES && --tries);
	progress_end(&acquirer->progress);
	return NULL;
}

/* The kernel has looked the page up, and not yet replaced it. */
TEST_F(uprobe, acquired_while_removed)
{
	struct acquirer acquirer = { .self = self };
	pthread_t thread, device;

	WRITE_MEM(self->data, 1);
	acquire_pages(&self->dev, &self->mem, SEMAPHORE, 1);
	acquirer.stopped = dev_break(&self->dev, DEVEXCL_POINT_INVALIDATE,
				     page_of(&self->mem, SEMAPHORE));
	ASSERT_LE(0, acquirer.stopped);
	ASSERT_EQ(0, pthread_create(&device, NULL, acquire_and_add, &acquirer));
	ASSERT_EQ(0, pthread_create(&thread, NULL, call_function,
				    self->mem.p));
	progress_wait(&acquirer.progress);
	close(acquirer.stopped);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_EQ(0, pthread_join(device, NULL));
	progress_close(&acquirer.progress);

	EXPECT_EQ(0, acquirer.ret);
	expect_claim(check_function(self));
	EXPECT_EQ(2, READ_MEM(self->data));
	expect_not_held(&self->dev, &self->mem, 0, PAGES);
	expect_references(&self->dev, &self->mem);
}

/* Nobody comes in between. */
TEST_F(uprobe, held_when_hit)
{
	WRITE_MEM(self->data, 1);
	acquire_pages(&self->dev, &self->mem, 0, PAGES);
	EXPECT_EQ(0, dev_add(&self->dev, self->data, 1, NULL));
	call_function(self->mem.p);

	expect_not_held(&self->dev, &self->mem, 0, PAGES);
	expect_claim(check_function(self));
	EXPECT_EQ(2, READ_MEM(self->data));
	expect_references(&self->dev, &self->mem);
}

DEVEXCL_TEST_MAIN
