package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/image"
)

const sourcesUsage = `Collects the Debian source packages of all that the built image consists of into
BOARD-sources in the output folder, each in a folder of its own, and lists in
index.json what belongs to which package. A kernel's are 140 MB.

  builder sources -board qemu-arm64
  builder sources -board qemu-arm64 -list
`

func sourcesCommand(ctx context.Context, flags *flag.FlagSet, args []string) error {
	var o image.Options
	where := commonFlags(flags, &o)
	list := flags.Bool("list", false, "only list what there is to collect, without the network")
	asJSON := flags.Bool("json", false, "print a JSON array")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := where(); err != nil {
		return err
	}
	if _, err := board.Load("boards", o.Board); err != nil {
		return err
	}
	var sources []image.SourcePackage
	if *list {
		m, err := image.ReadManifest(filepath.Join(o.Out, o.Board+".json"))
		if err != nil {
			return buildFirst(err, o.Board)
		}
		sources = m.Sources()
	} else {
		var err error
		if sources, err = image.CollectSources(ctx, o); err != nil {
			return buildFirst(err, o.Board)
		}
		var size int64
		for _, s := range sources {
			for _, f := range s.Files {
				size += f.Size
			}
		}
		fmt.Fprintf(os.Stderr, "%s: %d source packages, %.1f MB\n", image.SourcesDir(o.Out, o.Board), len(sources), float64(size)/1e6)
	}
	if *asJSON {
		return printJSON(sources)
	}
	if !*list {
		return nil
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	for _, s := range sources {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Name, s.Version, strings.Join(s.For, ", "))
	}
	return t.Flush()
}

// buildFirst says so if there is no built image.
func buildFirst(err error, board string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: build it first: make board=%s image", err, board)
	}
	return err
}
