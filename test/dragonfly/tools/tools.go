//go:build tools

// Package tools names the scheduler's program, so that the Go module pins its version.
package tools

import _ "d7y.io/dragonfly/v2/cmd/scheduler"
