# What the oddities' varnishd runs. Words in a URL say what becomes of it, here and in the backend; several may be in one.
# The words in capitals are replaced.

vcl 4.1;

import std;

backend scripted {
    .host = "BACKEND_HOST";
    .port = "BACKEND_PORT";
    .first_byte_timeout = 5s;
    .between_bytes_timeout = 5s;
    # Leaves records that belong to no transaction.
    .probe = {
        .url = "/probe";
        .interval = 1s;
        .initial = 8;
    }
}

# Nothing listens there.
backend down {
    .host = "127.0.0.1";
    .port = "1";
}

backend nothing none;

acl nobody +log {
    "192.0.2.99";
    ! "192.0.2.0"/24;
}

sub vcl_recv {
    std.log("key:value");
    std.timestamp("Received");
    set req.http.X-Set = "by VCL";
    unset req.http.X-Gone;
    if (req.url ~ "/log") {
        std.log("key: second ");
        std.log("key");
        std.log("KEY:upper case");
        std.log("keys:others");
        std.log(":");
        std.log("empty:");
        std.log("");
        std.log(" ");
        std.log("quoted:" + {"a "b" \c"} + "%0a	tab");
        std.log("url:" + req.url + ":" + req.http.X-Bytes);
        std.timestamp("");
        std.timestamp("Two words");
        std.timestamp("Resp");
    }
    if (req.url ~ "/headers") {
        set req.http.X-Once = "1";
        unset req.http.X-Once;
        set req.http.X-Once = "2";
        set req.http.X-Once = req.http.X-Once + " and 3";
        set req.http.X-Nothing = "";
        set req.http.User-Agent = "VCL";
        set req.url = req.url + "&changed";
        set req.method = "GET";
        std.collect(req.http.X-Multi);
        unset req.http.X-Odd;
        set req.http.X-Forwarded-For = client.ip + ", unknown";
    }
    if (req.url ~ "/rollback") {
        set req.http.X-Before = "rolled back";
        std.rollback(req);
    }
    if (req.url ~ "/acl" && client.ip ~ nobody) {
        return (synth(403));
    }
    if (req.url ~ "/fail") {
        return (fail("As the URL says"));
    }
    if (req.url ~ "/ban") {
        ban("req.url == " + req.url);
        ban("obj.http.X-Ban == yes");
        ban("no such thing");
    }
    if (req.url ~ "/nothing") {
        set req.backend_hint = nothing;
    }
    if (req.url ~ "/down") {
        set req.backend_hint = down;
    }
    if (req.method == "PURGE") {
        return (purge);
    }
    if (req.url ~ "/restart-for-ever" || req.url ~ "/restart-twice" && req.restarts < 2 ||
        req.url ~ "/restart-once" && req.restarts < 1) {
        set req.http.X-Restarts = req.restarts;
        return (restart);
    }
    if (req.url ~ "/synth-1404") {
        return (synth(1404, "Not here"));
    }
    if (req.url ~ "/synth-empty") {
        return (synth(299, ""));
    }
    if (req.url ~ "/synth") {
        return (synth(750, {"What "is" this \?"}));
    }
    if (req.url ~ "/pipe") {
        return (pipe);
    }
    if (req.url ~ "/pass" || req.url ~ "/post") {
        std.cache_req_body(100KB);
        return (pass);
    }
    if (req.url ~ "/always-miss") {
        set req.hash_always_miss = true;
    }
    if (req.url ~ "/cached") {
        return (hash);
    }
}

sub vcl_pipe {
    set bereq.http.X-Piped = "yes";
    if (req.url ~ "/pipe-refused") {
        return (synth(405));
    }
}

sub vcl_purge {
    if (req.url ~ "/restart-purged") {
        set req.method = "GET";
        return (restart);
    }
}

sub vcl_synth {
    if (resp.status == 750) {
        set resp.status = 404;
        set resp.reason = "Odd " + {""reason""};
        set resp.http.Content-Type = "text/plain";
        synthetic("made here");
        return (deliver);
    }
    if (req.url ~ "/restart-synth" && req.restarts == 0) {
        return (restart);
    }
}

sub vcl_backend_fetch {
    set bereq.http.X-Backend = "1";
    unset bereq.http.X-Set;
    set bereq.http.X-Set = "by VCL again";
    std.log("key:backend");
    if (bereq.url ~ "/late") {
        set bereq.first_byte_timeout = 0.1s;
        set bereq.between_bytes_timeout = 0.1s;
    }
    if (bereq.url ~ "/backend-fail") {
        return (fail);
    }
    if (bereq.url ~ "/backend-made") {
        return (error(418, "Made \ here"));
    }
}

sub vcl_backend_response {
    std.timestamp("Considered");
    set beresp.http.X-Beresp = "1";
    set beresp.http.X-Beresp = "2";
    unset beresp.http.X-Beresp;
    set beresp.http.X-Beresp = "3";
    unset beresp.http.X-Double;
    if (bereq.url ~ "/retry-once" && bereq.retries < 1 || bereq.url ~ "/retry-for-ever") {
        return (retry);
    }
    if (bereq.url ~ "/esi") {
        set beresp.do_esi = true;
    }
    if (bereq.url ~ "/gzip") {
        set beresp.do_gzip = true;
    }
    if (bereq.url ~ "/gunzip") {
        set beresp.do_gunzip = true;
    }
    if (bereq.url ~ "/whole") {
        set beresp.do_stream = false;
    }
    if (bereq.url ~ "/abandon") {
        return (abandon);
    }
    if (bereq.url ~ "/hit-for-pass") {
        return (pass(60s));
    }
    if (bereq.url ~ "/hit-for-miss") {
        set beresp.uncacheable = true;
        set beresp.ttl = 60s;
        return (deliver);
    }
    if (bereq.url ~ "/grace") {
        set beresp.ttl = 0.05s;
        set beresp.grace = 60s;
        set beresp.keep = 60s;
        return (deliver);
    }
    if (bereq.url ~ "/cached") {
        set beresp.ttl = 1h;
        return (deliver);
    }
}

sub vcl_backend_error {
    if (bereq.url ~ "/retry-failed" && bereq.retries < 1) {
        return (retry);
    }
    if (bereq.url ~ "/soft") {
        set beresp.status = 200;
        set beresp.reason = "As if";
        set beresp.http.X-Error = bereq.retries;
        synthetic("<p>nothing to see</p>");
        return (deliver);
    }
}

sub vcl_deliver {
    set resp.http.X-Multi = "1";
    set resp.http.X-Multi = resp.http.X-Multi + ", 2";
    unset resp.http.Via;
    set resp.http.via = "VCL";
    set resp.http.X-Hits = obj.hits;
    if (req.url ~ "/many-set") {
        set resp.http.X-1 = "1"; set resp.http.X-2 = "2"; set resp.http.X-3 = "3"; set resp.http.X-4 = "4";
        set resp.http.X-5 = "5"; set resp.http.X-6 = "6"; set resp.http.X-7 = "7"; set resp.http.X-8 = "8";
    }
    if (req.url ~ "/restart-delivered" && req.restarts == 0) {
        set req.url = "/cached/instead";
        return (restart);
    }
    if (req.url ~ "/deliver-synth") {
        return (synth(451));
    }
}
