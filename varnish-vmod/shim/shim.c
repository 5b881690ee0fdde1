/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions that VCL calls. They check what varnishd gives them, and turn it into plain C for the Rust side.
 */

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cache/cache.h"
#include "vcl.h"
#include "vsb.h"

#include "vmod_kafkalog.h"

#include "shim.h"

/*
 * What varnishd offers
 */

/* VRT_VSC_Destroy() would want this very pointer; segments are kept, but the promise costs nothing. */
static const char class[] = "KAFKALOG";

static void *
allocate(size_t size, const char *documentation, size_t length, struct vsc_seg **segment, const char *format, ...)
{
	va_list arguments;
	void *counters;

	va_start(arguments, format);
	counters = VRT_VSC_Alloc(NULL, segment, class, size, (const unsigned char *)documentation, length, format,
	    arguments);
	va_end(arguments);
	return (counters);
}

static uint64_t *
host_segment(const char *name, size_t counters, const char *documentation, size_t length, const void **handle)
{
	struct vsc_seg *segment = NULL;
	uint64_t *values;

	/* varnishd takes the name for a printf format, so the caller keeps percent signs out of it. */
	values = allocate(counters * sizeof *values, documentation, length, &segment, name);
	*handle = segment;
	return (values);
}

static void
host_hide(const void *handle)
{
	VRT_VSC_Hide(handle);
}

static void
host_reveal(const void *handle)
{
	VRT_VSC_Reveal(handle);
}

static void
host_log(int is_error, const char *line)
{
	/* VSL() is declared in cache.h, not in vrt.h. Its prototype last changed together with VRT_MAJOR_VERSION. */
	if (is_error)
		VSL(SLT_Error, 0, "kafkalog: %s", line);
	fprintf(stderr, "kafkalog: %s\n", line);
}

static const char *
host_pin(void)
{
	Dl_info info;

	/* Once opened with RTLD_NODELETE, a library stays, whatever dlclose() calls follow. */
	if (dladdr(class, &info) == 0 || info.dli_fname == NULL)
		return ("dladdr() does not know where this library was loaded from");
	if (dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) == NULL)
		return (dlerror());
	return (NULL);
}

static pid_t registered;

static void
at_exit(void)
{
	if (registered == getpid())
		kafkalog_vmod_exit();
}

static const char *
host_at_exit(void)
{
	if (registered == getpid())
		return (NULL);
	if (atexit(at_exit))
		return ("atexit() has no room for another function");
	registered = getpid();
	return (NULL);
}

static const struct kafkalog_host host = {
	.segment = host_segment,
	.hide = host_hide,
	.reveal = host_reveal,
	.log = host_log,
	.pin = host_pin,
	.at_exit = host_at_exit,
};

/*
 * What VCL calls
 */

static void v_matchproto_(vmod_priv_fini_f)
finish_vcl(VRT_CTX, void *vcl)
{
	(void)ctx;
	kafkalog_vmod_discard(vcl);
}

static const struct vmod_priv_methods vcl_methods = {
	.magic = VMOD_PRIV_METHODS_MAGIC,
	.type = "vmod_kafkalog",
	.fini = finish_vcl,
};

int v_matchproto_(vmod_event_f)
vmod_event(VRT_CTX, struct vmod_priv *priv, enum vcl_event_e event)
{
	char *error;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	AN(priv);
	if (priv->priv == NULL)
		return (0);
	switch (event) {
	case VCL_EVENT_WARM:
		error = kafkalog_vmod_warm(priv->priv, &host);
		if (error == NULL)
			return (0);
		/* Not VRT_fail(): varnishd asserts that an event other than LOAD never sets the handling. */
		if (ctx->msg != NULL)
			VSB_cat(ctx->msg, error);
		kafkalog_vmod_free(error);
		return (1);
	case VCL_EVENT_COLD:
		kafkalog_vmod_cold(priv->priv);
		return (0);
	case VCL_EVENT_LOAD:
	case VCL_EVENT_DISCARD:
		/* The VCL's part is freed by finish_vcl(), right after this event. */
		break;
	}
	return (0);
}

VCL_VOID
vmod_start(VRT_CTX, struct vmod_priv *priv, VCL_STRING configuration)
{
	char *error;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	AN(priv);
	if (ctx->method != VCL_MET_INIT) {
		VRT_fail(ctx, "kafkalog.start() can only be called in vcl_init");
		return;
	}
	if (priv->priv != NULL) {
		VRT_fail(ctx, "kafkalog.start() was called twice; once in a VCL is enough");
		return;
	}
	if (configuration == NULL || *configuration == '\0') {
		VRT_fail(ctx, "kafkalog.start() needs the path of a configuration file");
		return;
	}
	error = kafkalog_vmod_start(&priv->priv, configuration);
	if (error != NULL) {
		VRT_fail(ctx, "%s", error);
		kafkalog_vmod_free(error);
		return;
	}
	priv->methods = &vcl_methods;
}

VCL_BOOL
vmod_healthy(VRT_CTX)
{
	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	return (kafkalog_vmod_healthy() ? 1 : 0);
}

/* On the workspace of the task. */
static VCL_STRING
copied(VRT_CTX, const char *text)
{
	struct strands strands = { .n = 1, .p = &text };

	return (VRT_StrandsWS(ctx->ws, NULL, &strands));
}

VCL_STRING
vmod_hash_ip(VRT_CTX, VCL_IP address)
{
	char text[64];
	const char *shown;

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	shown = VRT_IP_string(ctx, address);
	if (shown == NULL || !kafkalog_vmod_hash_ip(shown, text, sizeof text))
		return (NULL);
	return (copied(ctx, text));
}

VCL_STRING
vmod_salt_id(VRT_CTX)
{
	char text[64];

	CHECK_OBJ_NOTNULL(ctx, VRT_CTX_MAGIC);
	if (!kafkalog_vmod_salt_id(text, sizeof text))
		return (NULL);
	return (copied(ctx, text));
}
