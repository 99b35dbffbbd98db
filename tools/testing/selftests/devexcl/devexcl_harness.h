/* SPDX-License-Identifier: GPL-2.0 */
/*
 * kselftest_harness.h, with what its older versions lack
 *
 * Up to Linux 6.2 the harness had no options. Tests that crash the kernel must
 * be run one by one, so "-l" and "-r" have to work everywhere.
 */
#ifndef _DEVEXCL_HARNESS_H
#define _DEVEXCL_HARNESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "../kselftest_harness.h"
#include "devexcl_util.h"

/*
 * Leave a fixture's setup because something that the tests need is missing,
 * from a helper of the setup, too. The harness learns of it by the exit code.
 */
#ifdef XFAIL_ADD
#define SKIP_SETUP(fmt, ...)	SKIP(_exit(KSFT_SKIP), fmt, ##__VA_ARGS__)
#else
#define SKIP_SETUP(fmt, ...)	SKIP(_exit(255), fmt, ##__VA_ARGS__)
#endif

/* New harnesses know how to expect a failure, and have the options. */
#ifdef XFAIL_ADD

#define DEVEXCL_CONSTRUCTOR

static int devexcl_harness(int argc, char **argv)
{
	optind = 1;
	return test_harness_run(argc, argv);
}

#else

static void devexcl_list_fixture(struct __fixture_metadata *f)
{
	struct __fixture_variant_metadata *v = f->variant;
	struct __test_metadata *t = f->tests;

	do {
		fprintf(stderr, "%-20s %-25s %s\n",
			t == f->tests ? f->name : "", v ? v->name : "",
			t ? t->name : "");
		v = v ? v->next : NULL;
		t = t ? t->next : NULL;
	} while (v || t);
}

static int devexcl_list_tests(void)
{
	struct __fixture_metadata *f;

	fprintf(stderr, "%-20s %-25s %s\n", "# FIXTURE", "VARIANT", "TEST");
	for (f = __fixture_list; f; f = f->next) {
		if (f != __fixture_list)
			fprintf(stderr, "----------------------------------------\n");
		devexcl_list_fixture(f);
	}
	return KSFT_SKIP;
}

static bool devexcl_is_test(const char *name, struct __fixture_metadata *f,
			    struct __fixture_variant_metadata *v,
			    struct __test_metadata *t)
{
	char full[256];

	snprintf(full, sizeof(full), "%s%s%s.%s", f->name, v ? "." : "",
		 v ? v->name : "", t->name);
	return !strcmp(full, name);
}

/* Make the lists hold this one test only. */
static void devexcl_keep_test(struct __fixture_metadata *f,
			      struct __fixture_variant_metadata *v,
			      struct __test_metadata *t)
{
	if (v) {
		v->prev = v;
		v->next = NULL;
	}
	t->prev = t;
	t->next = NULL;
	f->prev = f;
	f->next = NULL;
	f->variant = v;
	f->tests = t;
	__fixture_list = f;
}

static bool devexcl_select_test(const char *name)
{
	struct __fixture_variant_metadata *v;
	struct __fixture_metadata *f;
	struct __test_metadata *t;

	for (f = __fixture_list; f; f = f->next) {
		v = f->variant;
		do {
			for (t = f->tests; t; t = t->next) {
				if (devexcl_is_test(name, f, v, t)) {
					devexcl_keep_test(f, v, t);
					return true;
				}
			}
			v = v ? v->next : NULL;
		} while (v);
	}
	return false;
}

static int devexcl_harness(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "-l"))
		return devexcl_list_tests();
	if (argc == 3 && !strcmp(argv[1], "-r")) {
		if (!devexcl_select_test(argv[2])) {
			fprintf(stderr, "%s: no test '%s'\n", argv[0], argv[2]);
			return KSFT_FAIL;
		}
		argc = 1;
	}
	if (argc != 1) {
		fprintf(stderr, "Usage: %s [-l | -r fixture[.variant].test]\n",
			argv[0]);
		return KSFT_FAIL;
	}
	return test_harness_run(argc, argv);
}

#define DEVEXCL_CONSTRUCTOR						\
	static void __attribute__((constructor))			\
	__constructor_order_last(void)					\
	{								\
		if (!__constructor_order)				\
			__constructor_order =				\
				_CONSTRUCTOR_ORDER_BACKWARD;		\
	}

#endif /* XFAIL_ADD */

/* A test, with a harness of its own: one harness runs once. */
static void devexcl_run_test(char *program, char *name)
{
	char run[] = "-r";
	char *argv[4];
	int status;
	pid_t pid;

	argv[0] = program;
	argv[1] = run;
	argv[2] = name;
	argv[3] = NULL;
	fflush(stdout);
	pid = fork();
	if (!pid)
		exit(devexcl_harness(3, argv));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		perror(name);
}

/*
 * Many tests in one run of the program, as in devexcl_cells.c: all results are
 * in the output.
 */
static int devexcl_run_tests(int argc, char **argv)
{
	long before = kernel_complaints();
	int i;

	for (i = 2; i < argc; i += 2) {
		mark_kernel_log(argv[i]);
		devexcl_run_test(argv[0], argv[i]);
		if (kernel_complaints() != before) {
			printf("# stopped: the kernel has complained\n");
			break;
		}
	}
	return KSFT_PASS;
}

static int devexcl_test_main(int argc, char **argv)
{
	int i;

	if (argc == 2 && !strcmp(argv[1], "-l"))
		fprintf(stderr, "# MANY AT ONCE\n");
	for (i = 1; i + 1 < argc && !strcmp(argv[i], "-r"); i += 2)
		;
	if (i > 3 && i == argc)
		return devexcl_run_tests(argc, argv);
	return devexcl_harness(argc, argv);
}

/* As TEST_HARNESS_MAIN; but "-r name" may be repeated. */
#define DEVEXCL_TEST_MAIN						\
	DEVEXCL_CONSTRUCTOR						\
	int main(int argc, char **argv)					\
	{								\
		return devexcl_test_main(argc, argv);			\
	}

#endif /* _DEVEXCL_HARNESS_H */
