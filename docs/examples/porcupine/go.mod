module troika.example/porcupine

go 1.16

require (
	github.com/anishathalye/porcupine v1.3.0
	olympos.io/encoding/edn v0.0.0-20201019093823-d3554ca0b0a3
)
