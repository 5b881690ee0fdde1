# A cache of web pages: what many sites do to requests and responses, and no more.
# The words in capitals are replaced by the benchmark.

vcl 4.1;

IMPORT

backend origin {
    .host = "BACKEND_HOST";
    .port = "BACKEND_PORT";
}

sub vcl_init {
    START
}

sub vcl_recv {
    # An address that has moved.
    if (req.url ~ "^/moved/") {
        return (synth(302));
    }
    # Pages for those who are logged in.
    if (req.url ~ "^/private/") {
        return (pass);
    }
    unset req.http.Cookie;
}

# Requests are numbered in the query; pages are the same without.
sub vcl_hash {
    hash_data(regsub(req.url, "\?.*$", ""));
    hash_data(req.http.host);
    return (lookup);
}

# The backend answers with three headers of its own.
sub vcl_backend_response {
    set beresp.http.Server = "web-7";
    set beresp.http.ETag = {"W/"5f1d8a3c-31e""};
    set beresp.http.Vary = "Accept-Encoding";
    set beresp.http.X-Analytics = "ns=0;page_id=1234;https=1";
}

sub vcl_synth {
    set resp.http.Location = regsub(req.url, "^/moved/", "/page/");
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "cp1 hit";
    } else {
        set resp.http.X-Cache = "cp1 miss";
    }
}
