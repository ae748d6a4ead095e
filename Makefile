# Two commands: `make demo` shows a session between three points, `make test` runs what the server runs.
# A machine without make: `bash .ci/setup` installs it.

# One folder for all builds, outside the clone: demo, tests and server compile the dependencies once.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/diemcau/target
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# The features of the whole workspace, so that the program shares its dependencies with the tests.
BUILD := cargo build --locked --workspace --bin diemcau

.DEFAULT_GOAL := build
.PHONY: build demo test

build:
	@bash .ci/setup
	$(BUILD)

# The recordings stay in the folder that is named at the end. Another folder: make demo DATA=DIR;
# other options: make demo ARGS='--points 4 --seconds 60 --source file:clip.mp4'.
demo: build
	@data='$(DATA)'; data=$${data:-$$(mktemp -d "$${TMPDIR:-/tmp}/diemcau-demo.XXXXXX")} && \
	"$$CARGO_TARGET_DIR/debug/diemcau" demo --data "$$data" $(ARGS)

# codec and store alone as well: a build of the whole workspace unites features and hides an import too many.
test:
	@bash .ci/setup test
	cargo fmt --all --check
	cargo check --locked -p codec
	cargo check --locked -p store
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(BUILD)
	cargo test --locked --workspace
	"$$CARGO_TARGET_DIR/independent/bin/python" -B tests/independent/check.py
