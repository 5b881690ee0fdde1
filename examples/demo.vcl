# What `make demo` runs: each way that a request can take through Varnish, and kafkalog in vcl_init.
# The words in capitals are replaced by the demo.

vcl 4.1;

import kafkalog;

backend origin {
    .host = "BACKEND_HOST";
    .port = "BACKEND_PORT";
}

sub vcl_init {
    kafkalog.start("CONFIGURATION");
}

sub vcl_recv {
    # Answered right here.
    if (req.url ~ "^/hello") {
        return (synth(200));
    }
    # Never from the cache.
    if (req.url ~ "^/private/") {
        return (pass);
    }
}

# The demo numbers its requests in the query; pages are the same without.
sub vcl_hash {
    hash_data(regsub(req.url, "\?.*$", ""));
    hash_data(req.http.host);
    return (lookup);
}

sub vcl_backend_response {
    if (beresp.http.Surrogate-Control ~ "ESI/1\.0") {
        unset beresp.http.Surrogate-Control;
        set beresp.do_esi = true;
    }
}

sub vcl_deliver {
    # The page has moved: once more, from the top, under its new name.
    if (resp.status == 404 && req.restarts == 0 && req.url ~ "^/old/") {
        set req.url = regsub(req.url, "^/old/", "/page/");
        return (restart);
    }
    if (obj.hits > 0) {
        set resp.http.X-Cache = "demo hit";
    } else {
        set resp.http.X-Cache = "demo miss";
    }
}
