package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/exosite/gwe/gweinit/cga"
)

// createBuildfile makes a buildfile in the current folder.
func createBuildfile(name, version string, out, errs io.Writer) int {
	file, err := cga.CreateBuildfile(".", name, version)
	if err != nil {
		fmt.Fprintf(errs, "gwe: %v\n", err)
		return 1
	}
	fmt.Fprint(out, `The buildfile has:

  name             the app's name: of its program, log and tarball
  version          another one for each tarball that gets to a gateway
  includes         what gets into the tarball: files, folders, and globs such as
                   *.py or lib/**; a folder is all that is in it
  excludes         what does not: globs; *.pyc is without a slash, and anywhere
  pre_build_cmds   commands for the shell, before the tarball is made
  post_build_cmds  and after it; APP_TARBALL is its path

`)
	fmt.Fprintln(out, file)
	return 0
}

// checkBuildfile prints what is wrong with a buildfile, and a verdict.
func checkBuildfile(file string, out, errs io.Writer) int {
	findings, err := cga.CheckBuildfile(file)
	return verdict(findings, err, out, errs)
}

// checkTarball prints what is wrong with an app's tarball, and a verdict.
func checkTarball(file string, out, errs io.Writer) int {
	ctx, stop := interruptible()
	defer stop()
	findings, err := cga.CheckTarball(ctx, file)
	return verdict(findings, err, out, errs)
}

func verdict(findings []cga.Finding, err error, out, errs io.Writer) int {
	for _, f := range findings {
		fmt.Fprintln(out, f)
	}
	if err != nil {
		fmt.Fprintf(errs, "gwe: %v\n", err)
	}
	if err != nil || cga.Failed(findings) {
		fmt.Fprintln(out, "[FAIL]")
		return 1
	}
	fmt.Fprintln(out, "[PASS]")
	return 0
}

// buildApp builds a tarball and prints its path. Nothing else gets to out, as
// scripts say scp $(gwe --build-app FILE).
func buildApp(file, name, version string, out, errs io.Writer) int {
	ctx, stop := interruptible()
	defer stop()
	tarball, err := cga.Build(ctx, file, cga.Options{Name: name, Version: version, Input: os.Stdin, Output: errs})
	if findings, ok := errors.AsType[cga.FindingsError](err); ok {
		fmt.Fprintf(errs, "%v\ngwe: build %s: nothing was built\n", findings, file)
		return 1
	}
	if err != nil {
		fmt.Fprintf(errs, "gwe: %v\n", err)
		return 1
	}
	fmt.Fprintln(out, tarball)
	return 0
}

func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}
