// SPDX-License-Identifier: GPL-2.0
/*
 * Running cells, one after the other; see devexcl_cells.h
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio_ext.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "../kselftest.h"
#include "devexcl_cells.h"

/* A cell that takes longer hangs. Generous: emulated CPUs, debug kernels. */
#define CELL_SECONDS	60

/*
 * The first byte of a verdict says which kind it is. Text without such a byte, as
 * others tell what is wrong, is a failure.
 */
enum kind_of_verdict { IS_PASS = 1, IS_SKIP, IS_FAIL };

static const char *say(enum kind_of_verdict kind, const char *fmt, va_list args)
{
	static char text[400];

	text[0] = kind;
	vsnprintf(text + 1, sizeof(text) - 1, fmt, args);
	return text;
}

const char *fail(const char *fmt, ...)
{
	va_list args;
	const char *ret;

	va_start(args, fmt);
	ret = say(IS_FAIL, fmt, args);
	va_end(args);
	return ret;
}

const char *skip(const char *fmt, ...)
{
	va_list args;
	const char *ret;

	va_start(args, fmt);
	ret = say(IS_SKIP, fmt, args);
	va_end(args);
	return ret;
}

const char *must(const char *what, long ret)
{
	if (ret >= 0)
		return NULL;
	return fail("%s: %s", what, strerror(ret == -1 ? errno : (int)-ret));
}

const char *claim(const char *wrong)
{
	return wrong ? fail("%s", wrong) : NULL;
}

const char *break_driver_of(struct dev *dev)
{
	const char *broken = getenv("DEVEXCL_BROKEN");

	return broken ? must("inject", dev_inject(dev, strtoul(broken, NULL, 0),
						  0)) : NULL;
}

/* What a cell's process, or a child of it, leaves behind for its parent. */
static char *report;
#define REPORT_SIZE	512

/* What a verdict says, without the byte that says which kind it is */
static const char *report_text(void)
{
	return report + (report[0] >= IS_PASS && report[0] <= IS_FAIL);
}

void leave_verdict(const char *verdict)
{
	snprintf(report, REPORT_SIZE, "%s", verdict ?: "");
}

const char *take_verdict(void)
{
	const char *ret = NULL;

	if (report[0] == IS_SKIP)
		ret = skip("%s", report + 1);
	else if (report[0] && report[0] != IS_PASS)
		ret = fail("%s", report_text());
	report[0] = 0;
	return ret;
}

/* Wait for the end of a process, but not for ever. Return: false if it hung. */
static bool wait_cell(pid_t pid, int *status)
{
	struct timespec limit = { .tv_sec = CELL_SECONDS };
	sigset_t child;
	bool hung;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	hung = sigtimedwait(&child, NULL, &limit) < 0;
	if (hung)
		kill(pid, SIGKILL);
	waitpid(pid, status, 0);
	return !hung;
}

/* Run a cell in a process of its own; its verdict is in @report then. */
static void run_process(const char *(*run)(size_t cell), size_t cell)
{
	int status;
	pid_t pid;

	report[0] = 0;
	pid = fork();
	if (!pid) {
		/* What is not printed yet is for our parent to print. */
		__fpurge(stdout);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		leave_verdict(run(cell) ?: (char []){ IS_PASS, 0 });
		/* What is left is undone by exit(): worth testing as well. */
		_exit(0);
	}
	if (!wait_cell(pid, &status))
		snprintf(report, REPORT_SIZE, "%cno end within %d seconds",
			 IS_FAIL, CELL_SECONDS);
	else if (!report[0])
		snprintf(report, REPORT_SIZE, "%cthe cell died: %s %d", IS_FAIL,
			 WIFSIGNALED(status) ? "signal" : "status",
			 WIFSIGNALED(status) ? WTERMSIG(status) :
					       WEXITSTATUS(status));
}

/* Would the same have gone wrong with nothing held by the device? */
static void run_control(const struct cells *cells, size_t cell)
{
	if (!cells->control)
		return;
	run_process(cells->control, cell);
	ksft_print_msg("the same with nothing held by the device: %s\n",
		       report[0] == IS_PASS ? "all is well" : report_text());
}

static void run_one(const struct cells *cells, size_t cell)
{
	const char *name = cells->name(cell);

	printf("#  RUN           %s ...\n", name);
	mark_kernel_log(name);
	run_process(cells->run, cell);

	if (report[0] == IS_PASS) {
		ksft_test_result_pass("%s\n", name);
	} else if (report[0] == IS_SKIP) {
		ksft_test_result_skip("%s # SKIP %s\n", name, report_text());
	} else {
		ksft_print_msg("%s\n", report_text());
		run_control(cells, cell);
		ksft_test_result_fail("%s\n", name);
	}
}

/* The names of the cells that are asked for, sorted; none: all are. */
static const char **asked;
static size_t nr_asked;

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char **)a, *(const char **)b);
}

static void read_names(int argc, char **argv)
{
	int i;

	asked = calloc(argc, sizeof(*asked));
	for (i = 2; i < argc; i += 2)
		asked[nr_asked++] = argv[i];
	qsort(asked, nr_asked, sizeof(*asked), compare_names);
}

static bool is_asked_for(const char *name)
{
	return !nr_asked || bsearch(&name, asked, nr_asked, sizeof(*asked),
				    compare_names);
}

static void print_cells(const struct cells *cells)
{
	size_t cell;

	puts("# TESTS");
	if (cells->own_table)
		puts("# not of the matrix");
	for (cell = 0; cell < cells->nr; cell++) {
		const char *why = cells->excluded(cell);

		if (!why)
			puts(cells->name(cell));
		else if (!cells->tell_excluded || cells->tell_excluded(cell))
			printf("# without %s: %s\n", cells->name(cell), why);
	}
}

/* Rules, and how many cells each has excluded. */
struct exclusion {
	const char *why;
	unsigned int cells;
};

static struct exclusion exclusions[32];

static void count_excluded(const char *why)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(exclusions); i++) {
		if (!exclusions[i].why)
			exclusions[i].why = why;
		if (!strcmp(exclusions[i].why, why)) {
			exclusions[i].cells++;
			return;
		}
	}
}

/* The cells to be run: those that make sense and are asked for. */
static size_t *choose_cells(const struct cells *cells, size_t *nr)
{
	size_t *chosen = calloc(cells->nr, sizeof(*chosen));
	size_t cell;

	*nr = 0;
	for (cell = 0; cell < cells->nr; cell++) {
		const char *why = cells->excluded(cell);

		if (!is_asked_for(cells->name(cell)))
			continue;
		if (why)
			count_excluded(why);
		else
			chosen[(*nr)++] = cell;
	}
	return chosen;
}

/* Cells between which what they have printed is sent. */
#define CELLS_A_FLUSH	16

/* Return: false if the rest is to be run by another kernel. */
static bool run_cells(const struct cells *cells, const size_t *chosen,
		      size_t nr)
{
	long before = kernel_complaints();
	size_t i;

	for (i = 0; i < nr; i++) {
		run_one(cells, chosen[i]);
		if (i % CELLS_A_FLUSH == 0)
			fflush(stdout);
		/* Who has asked for many means to start anew after that. */
		if (nr_asked && kernel_complaints() != before) {
			ksft_print_msg("stopped: the kernel has complained\n");
			return false;
		}
	}
	return true;
}

static void print_exclusions(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(exclusions) && exclusions[i].why; i++)
		ksft_print_msg("excluded: %u cells: %s\n", exclusions[i].cells,
			       exclusions[i].why);
}

static bool valid_arguments(int argc, char **argv)
{
	int i;

	if (argc == 1 || (argc == 2 && !strcmp(argv[1], "-l")))
		return true;
	for (i = 1; i < argc; i += 2)
		if (strcmp(argv[i], "-r") || i + 1 == argc)
			return false;
	return true;
}

/* Is there a device, and does it work? */
static void look_at_device(void)
{
	struct dev dev;
	int ret;

	ret = dev_open(&dev, 0);
	if (ret == -ENOENT || ret == -EACCES)
		ksft_exit_skip("no /dev/devexcl0 for us: %s\n", strerror(-ret));
	ret = ret ?: calibrate_exclusive_entry(&dev);
	if (ret)
		ksft_exit_fail_msg("the device does not work: %s\n",
				   strerror(-ret));
	dev_close(&dev);
}

int cells_main(const struct cells *cells, int argc, char **argv)
{
	sigset_t child;
	size_t *chosen;
	size_t nr;
	bool all;

	if (!valid_arguments(argc, argv)) {
		fprintf(stderr, "Usage: %s [-l | -r name [-r name ...]]\n",
			argv[0]);
		return KSFT_FAIL;
	}
	if (argc > 2)
		read_names(argc, argv);
	chosen = choose_cells(cells, &nr);
	if (argc == 2) {
		print_cells(cells);
		print_exclusions();
		return KSFT_PASS;
	}
	if (!nr) {
		fprintf(stderr, "%s: no such cell\n", argv[0]);
		return KSFT_FAIL;
	}

	ksft_print_header();
	look_at_device();
	report = mmap(NULL, REPORT_SIZE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);

	avoid_numa_balancing();
	if (cells->begin)
		cells->begin();
	ksft_set_plan(nr);
	all = run_cells(cells, chosen, nr);
	if (cells->end)
		cells->end();
	if (!all)
		ksft_exit_pass();
	print_exclusions();
	ksft_finished();
	/* Not reached; older kernels' kselftest.h does not tell the compiler. */
	return KSFT_FAIL;
}
