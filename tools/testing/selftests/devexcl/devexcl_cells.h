/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Programs of cells: many short tests that are made from tables
 *
 * A cell runs in a process of its own, so that nothing of it is left to the
 * next one, but in the same run of its program, which costs less than a start
 * of the program for each. The runner (tools/testing/devexcl) takes the output
 * apart again; the program tells it, and the kernel log, which cell it is at.
 */
#ifndef _DEVEXCL_CELLS_H
#define _DEVEXCL_CELLS_H

#include "devexcl_util.h"

#ifndef __printf
#define __printf(fmt, args)	__attribute__((format(printf, fmt, args)))
#endif

/*
 * What a step of a cell returns: NULL if all is well, fail("...") if a claim
 * does not hold, skip("...") if kernel or machine lack something.
 */
const char *fail(const char *fmt, ...) __printf(1, 2);
const char *skip(const char *fmt, ...) __printf(1, 2);
/* A system call that must work: fail() with its name and errno if it did not. */
const char *must(const char *what, long ret);
/* A claim of devexcl_util.h (what is wrong, or NULL) as a verdict. */
const char *claim(const char *wrong);

/* Leave a step if something is wrong. */
#define TRY(step)							\
do {									\
	const char *_verdict = (step);					\
									\
	if (_verdict)							\
		return _verdict;					\
} while (0)

/*
 * A verdict that a child of the cell's process has come to; the cell has to
 * take it, and to return it.
 */
void leave_verdict(const char *verdict);
const char *take_verdict(void);

/*
 * Tests that find nothing wrong must have been able to: with DEVEXCL_BROKEN in
 * the environment, as of devexcl_test.h, the driver makes these mistakes.
 */
const char *break_driver_of(struct dev *dev);

/**
 * struct cells - the cells of a program
 * @subject: name of the program, with which the names of its cells begin
 * @own_table: its columns are not those of the matrix
 * @nr: cells that there could be; they are numbered from 0 on
 * @name: the name of a cell; good until the next call
 * @excluded: why a cell makes no sense, or NULL
 * @tell_excluded: whether that a cell makes no sense is to be told by its name
 *	(all are counted); may be NULL
 * @run: what the cell does, in a process of its own
 * @control: the same without what is to be tested, to tell whether it would
 *	have failed then as well; may be NULL
 * @begin: before the first cell; may be NULL
 * @end: after the last one; may be NULL
 */
struct cells {
	const char *subject;
	bool own_table;
	size_t nr;
	const char *(*name)(size_t cell);
	const char *(*excluded)(size_t cell);
	bool (*tell_excluded)(size_t cell);
	const char *(*run)(size_t cell);
	const char *(*control)(size_t cell);
	void (*begin)(void);
	void (*end)(void);
};

/**
 * cells_main() - run the cells of a program
 * @cells: they
 * @argc: of main()
 * @argv: of main(); -l lists the cells, -r name runs one and may be repeated
 *
 * Return: exit status
 */
int cells_main(const struct cells *cells, int argc, char **argv);

#endif /* _DEVEXCL_CELLS_H */
