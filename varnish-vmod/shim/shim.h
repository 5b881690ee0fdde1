/* SPDX-License-Identifier: Apache-2.0
 *
 * Where C and Rust meet, in plain C types: no structure of varnishd's crosses, so a Varnish whose structures differ
 * cannot be misread by the Rust side, and va_list, which Rust has no stable way to pass, stays here.
 *
 * Texts that Rust returns are freed with kafkalog_vmod_free(); NULL means that all went well.
 */

#include <stddef.h>
#include <stdint.h>

/* What varnishd and the C library offer; src/host.rs has the same structure. */
struct kafkalog_host {
	/* A segment of counters, shown by varnishstat as KAFKALOG.<name>.*; `documentation` must stay where it is for
	 * ever. Only from the CLI thread. */
	uint64_t *(*segment)(const char *name, size_t counters, const char *documentation, size_t length,
	    const void **handle);
	void (*hide)(const void *handle);
	void (*reveal)(const void *handle);
	/* To standard error, which the manager process puts into syslog; errors to varnishd's log, too. */
	void (*log)(int is_error, const char *line);
	/* Keeps this library in memory for the rest of the process's life. */
	const char *(*pin)(void);
	/* Has kafkalog_vmod_exit() called at the end of this process, not of one that it forks. */
	const char *(*at_exit)(void);
};

/* Hidden: the linker takes the strictest visibility that any mention of a name asks for, so these are not exported. */
#pragma GCC visibility push(hidden)
char *kafkalog_vmod_start(void **vcl, const char *configuration);
char *kafkalog_vmod_warm(void *vcl, const struct kafkalog_host *host);
void kafkalog_vmod_cold(void *vcl);
void kafkalog_vmod_discard(void *vcl);
int kafkalog_vmod_healthy(void);
/* Into `text`, with a terminating NUL; 0 when there is nothing to say. */
int kafkalog_vmod_hash_ip(const char *address, char *text, size_t size);
int kafkalog_vmod_salt_id(char *text, size_t size);
void kafkalog_vmod_exit(void);
void kafkalog_vmod_free(char *text);
#pragma GCC visibility pop
