# Put into the VCL that is in use; the configuration is examples/kafkalog.toml.
import kafkalog;

sub vcl_init {
    kafkalog.start("/etc/kafkalog/kafkalog.toml");
}
