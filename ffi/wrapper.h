/* What bindgen reads: the log's tags with their flags, and libvarnishapi's cursor interface. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "vdef.h"
#include "vapi/vsl.h"
#include "vapi/vsm.h"

/* The flags stand only in the table that the header is generated from; an enumeration makes them visible. */
enum kafkalog_tag_flags {
#define SLTM(name, flags, short_description, long_description) KAFKALOG_FLAGS_##name = (flags),
#include "tbl/vsl_tags.h"
};

enum kafkalog_layout {
	KAFKALOG_HEADER_WORDS = VSL_OVERHEAD,
	KAFKALOG_SEGMENTS = VSL_SEGMENTS
};
