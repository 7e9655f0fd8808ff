// Package stories has no code: its tests build real images and boot them in
// QEMU, and read like what a user would tell. They take minutes, so they are
// behind the build tag "qemu":
//
//	go test -tags qemu ./builder/stories
//
// "make test" runs them, with all that they need installed.
package stories
