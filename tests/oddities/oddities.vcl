vcl 4.1;

import std;

backend default {
	.host = "127.0.0.1";
	.port = "@PORT@";
	.first_byte_timeout = 2s;
}
backend down {
	.host = "127.0.0.1";
	.port = "1";
}

sub vcl_recv {
	std.log("key: value  ");
	std.log("key:second");
	std.log("no key");
	std.log("empty:");
	std.log("");
	set req.http.X-Set = "a b";
	set req.http.Host = req.http.Host + ".changed";
	unset req.http.X-Gone;
	if (req.url ~ "^/synth") {
		return (synth(750, {"What "is" this"}));
	}
	if (req.url ~ "^/pass") {
		return (pass);
	}
	if (req.url ~ "^/pipe") {
		return (pipe);
	}
	if (req.url ~ "^/down") {
		set req.backend_hint = down;
		return (pass);
	}
	if (req.url ~ "^/restart" && req.restarts < 2) {
		return (restart);
	}
	if (req.url ~ "^/for-ever") {
		return (restart);
	}
	if (req.method == "PURGE") {
		return (purge);
	}
	return (hash);
}

sub vcl_synth {
	if (req.url ~ "restart" && req.restarts < 1) {
		return (restart);
	}
	set resp.status = 404;
}

sub vcl_backend_fetch {
	set bereq.http.X-Backend = "1";
}

sub vcl_backend_response {
	if (bereq.url ~ "esi") {
		set beresp.do_esi = true;
	}
	if (bereq.url ~ "retry" && bereq.retries < 2) {
		return (retry);
	}
	set beresp.ttl = 0.3s;
	set beresp.grace = 10s;
	if (bereq.url ~ "hit-for-pass") {
		return (pass(10s));
	}
	if (bereq.url ~ "hit-for-miss") {
		set beresp.uncacheable = true;
	}
}

sub vcl_deliver {
	set resp.http.Multi = "1";
	set resp.http.Multi = "2";
	std.timestamp("Mine");
	unset resp.http.Via;
}
