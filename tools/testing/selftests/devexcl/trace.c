// SPDX-License-Identifier: GPL-2.0
/*
 * The device's tracepoints tell what it does
 */
#include <sys/stat.h>

#include "devexcl_test.h"

#define TRACEFS		"/sys/kernel/tracing"
/* A buffer of our own: nobody else's events are in it. */
#define INSTANCE	TRACEFS "/instances/devexcl_test"

FIXTURE(trace) {
	struct dev dev;
	struct mem mem;
	char text[65536];
};

FIXTURE_SETUP(trace)
{
	setup_device(_metadata, &self->dev, 0);
	if (mkdir(INSTANCE, 0700) && errno != EEXIST)
		SKIP_SETUP("no " TRACEFS ": %s", strerror(errno));
	setup_mirrored(_metadata, &self->dev, &self->mem, 2);
	ASSERT_EQ(0, write_file(INSTANCE "/events/devexcl/enable", "1"));
}

FIXTURE_TEARDOWN(trace)
{
	rmdir(INSTANCE);
	mem_unmap(&self->mem);
	dev_close(&self->dev);
}

/* All that was traced so far. */
static const char *read_trace(FIXTURE_DATA(trace) *self)
{
	int fd = open(INSTANCE "/trace", O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got;

	do {
		got = read(fd, self->text + length,
			   sizeof(self->text) - 1 - length);
		length += got > 0 ? got : 0;
	} while (got > 0);
	close(fd);
	self->text[length] = 0;
	return self->text;
}

/* Lines of the trace that hold all three texts. */
static int lines_with(FIXTURE_DATA(trace) *self, const char *event,
		      const char *address, const char *rest)
{
	const char *line = read_trace(self);
	int nr = 0;

	while (*line) {
		size_t length = strcspn(line, "\n");
		char *copy = strndup(line, length);

		nr += strstr(copy, event) && strstr(copy, address) &&
		      strstr(copy, rest);
		free(copy);
		line += length + (line[length] == '\n');
	}
	return nr;
}

/* The address of a page as the trace prints it. */
static const char *address_of(const struct mem *mem, size_t page)
{
	static char text[32];

	snprintf(text, sizeof(text), "%#lx",
		 (unsigned long)page_of(mem, page));
	return text;
}

TEST_F(trace, acquire)
{
	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, 1)));
	EXPECT_EQ(1, lines_with(self, "devexcl_acquire:",
				address_of(&self->mem, 1), "ret=0"));
	EXPECT_EQ(0, lines_with(self, "devexcl_acquire:",
				address_of(&self->mem, 0), ""));
}

/* The page is mapped when it is tried, but cannot be had. */
TEST_F(trace, acquire_refused)
{
	char *p = mmap(page_of(&self->mem, 1), page_size(),
		       PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(-EOPNOTSUPP, dev_acquire(&self->dev, p, 1));
	EXPECT_EQ(1, lines_with(self, "devexcl_acquire:",
				address_of(&self->mem, 1), "ret=-95"));
}

TEST_F(trace, revoke)
{
	acquire_pages(&self->dev, &self->mem, 1, 1);
	READ_MEM(word_of(&self->mem, 1));
	EXPECT_EQ(1, lines_with(self, "devexcl_revoke:",
				address_of(&self->mem, 1), "dropped=1"));
	EXPECT_EQ(1, lines_with(self, "devexcl_revoke:",
				address_of(&self->mem, 1), "owner=own"));
}

TEST_F(trace, atomic)
{
	acquire_pages(&self->dev, &self->mem, 0, 2);
	ASSERT_EQ(0, dev_add(&self->dev, word_of(&self->mem, 1), 0x4711, NULL));
	EXPECT_EQ(1, lines_with(self, "devexcl_atomic:",
				address_of(&self->mem, 1), "operand=0x4711"));
	EXPECT_EQ(1, lines_with(self, "devexcl_atomic:", "", ""));
}

TEST_F(trace, retry)
{
	ASSERT_EQ(0, dev_inject(&self->dev, 0, 3));
	ASSERT_EQ(0, dev_acquire_one(&self->dev, page_of(&self->mem, 1)));
	EXPECT_EQ(3, lines_with(self, "devexcl_retry:",
				address_of(&self->mem, 1), ""));
	EXPECT_EQ(1, lines_with(self, "devexcl_retry:", "", "round=2"));
}

/* A job begins and ends once, and what it does is traced in between. */
TEST_F(trace, job)
{
	struct devexcl_submit job = {
		.flags = DEVEXCL_SUBMIT_ACQUIRE,
		.addr = (uintptr_t)page_of(&self->mem, 1),
		.count = 3,
		.operand = 0x4711,
		.engine = DEVEXCL_ENGINE_ANY,
	};
	struct devexcl_wait is;
	char name[48];
	long id = dev_submit(&self->dev, &job);

	ASSERT_LT(0, id);
	ASSERT_EQ(0, dev_wait(&self->dev, id, DEVEXCL_WAIT_FOREVER, &is));
	snprintf(name, sizeof(name), "job=%ld engine=%u ", id, is.engine);
	EXPECT_EQ(1, lines_with(self, "devexcl_job_begin:", name,
				"pattern=word"));
	EXPECT_EQ(1, lines_with(self, "devexcl_job_begin:",
				address_of(&self->mem, 1), "count=3 repeat=1"));
	EXPECT_EQ(1, lines_with(self, "devexcl_job_end:", name,
				"status=0 done=3"));
	EXPECT_EQ(3, lines_with(self, "devexcl_atomic:",
				address_of(&self->mem, 1), "operand=0x4711"));
	/* By a thread of the device. */
	EXPECT_EQ(3, lines_with(self, "devexcl0/", "devexcl_atomic:", ""));
}

DEVEXCL_TEST_MAIN
