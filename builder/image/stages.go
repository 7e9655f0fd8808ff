package image

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/disk"
	"github.com/exosite/gwe/builder/hosttool"
	"github.com/exosite/gwe/builder/kernel"
	"github.com/exosite/gwe/builder/rootfs"
	"github.com/exosite/gwe/builder/uboot"
	"github.com/exosite/gwe/gweinit/config"
	"github.com/exosite/gwe/gweinit/verity"
	"github.com/exosite/gwe/gweinit/verity/hashtree"
)

const bootImageFile = "boot.img"

// kernelFiles is what a Debian kernel consists of.
type kernelFiles struct {
	version string // as uname -r prints it
	modules string // folder lib/modules/VERSION with depmod's lists
	vmlinuz string
	dtbs    []string // the board's
}

// makeUBoot takes U-Boot from its package, or builds it.
func (b *build) makeUBoot(ctx context.Context) error {
	dir, err := "", error(nil)
	if u := b.board.UBoot; u.Build == nil {
		dir, err = b.cache.Get(ctx, "u-boot", b.key(nil, b.sha(u.Package), u.File), func(tmp string) error {
			return extract(ctx, b.debs[u.Package], u.File, filepath.Join(tmp, UBootFile))
		})
	} else {
		dir, err = b.buildUBoot(ctx)
	}
	if err != nil {
		return err
	}
	f, err := describe(dir, UBootFile)
	b.uboot, b.manifest.UBoot.SHA256 = filepath.Join(dir, UBootFile), f.SHA256
	return err
}

func (b *build) buildUBoot(ctx context.Context) (string, error) {
	how := b.board.UBoot.Build
	src, err := b.ubootSource(ctx)
	if err != nil {
		return "", err
	}
	b.manifest.UBoot.Source = &Source{src.Name, src.Version, map[string]string{}}
	key := []string{how.Defconfig, how.Cross, how.File}
	for _, f := range src.Files {
		key = append(key, f.SHA256)
		b.manifest.UBoot.Source.SHA256[f.Name] = f.SHA256
	}
	for _, name := range append([]string{how.Config}, how.Patches...) {
		f, err := describe(b.board.Dir, name)
		if err != nil {
			return "", err
		}
		key = append(key, f.SHA256)
		// Below the project: a board may take another one's.
		b.manifest.UBoot.Source.SHA256[path.Join("boards", b.board.Name, name)] = f.SHA256
	}
	for _, tool := range []string{"gcc", "ld"} { // the packages' versions are not those of what they depend on
		version, err := hosttool.Tool{Package: strings.Join(how.Packages, ", ")}.Output(ctx, how.Cross+tool, "--version")
		if err != nil {
			return "", err
		}
		key = append(key, version)
	}
	return b.cache.Get(ctx, "u-boot", b.key(how.Packages, key...), func(tmp string) error {
		work := filepath.Join(tmp, "build")
		if err := os.Mkdir(work, 0o755); err != nil {
			return err
		}
		result, err := uboot.Build(ctx, b.board, src, work, b.Log)
		if err != nil {
			return err
		}
		if err := os.Rename(result, filepath.Join(tmp, UBootFile)); err != nil {
			return err
		}
		return os.RemoveAll(work)
	})
}

// extract writes one member of a package to a file.
func extract(ctx context.Context, deb, member, to string) error {
	found := false
	err := debian.Walk(ctx, deb, func(h *tar.Header, r io.Reader) error {
		if h.Name != member || h.Typeflag != tar.TypeReg {
			return nil
		}
		found = true
		if err := writeFrom(r, to); err != nil {
			return err
		}
		return debian.ErrStop
	})
	if err == nil && !found {
		err = fmt.Errorf("%s has no file %s", filepath.Base(deb), member)
	}
	return err
}

// makeKernel unpacks the kernel's package and has depmod list what depends on
// what, as the package's installation would.
func (b *build) makeKernel(ctx context.Context) error {
	version := strings.TrimPrefix(b.kernelPackage, "linux-image-")
	var dtbs []string
	for _, name := range b.board.Kernel.DTBs {
		dtbs = append(dtbs, path.Join("usr/lib", b.kernelPackage, name))
	}
	dir, err := b.cache.Get(ctx, "kernel", b.key([]string{"kmod"}, append([]string{b.sha(b.kernelPackage)}, dtbs...)...), func(tmp string) error {
		b.Log("unpacking %s", b.kernelPackage)
		err := debian.Walk(ctx, b.debs[b.kernelPackage], func(h *tar.Header, r io.Reader) error {
			if h.Typeflag != tar.TypeReg || !strings.HasPrefix(h.Name, "lib/modules/") && !strings.HasPrefix(h.Name, "boot/vmlinu") && !slices.Contains(dtbs, h.Name) {
				return nil
			}
			to := filepath.Join(tmp, filepath.FromSlash(h.Name))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return writeFrom(r, to)
		})
		if err != nil {
			return err
		}
		return hosttool.Tool{Package: "kmod"}.Run(ctx, "depmod", "-b", tmp, version)
	})
	if err != nil {
		return err
	}
	b.manifest.Kernel = version
	b.kernel = kernelFiles{version: version, modules: filepath.Join(dir, "lib/modules", version), vmlinuz: filepath.Join(dir, "boot/vmlinuz-"+version)}
	for _, name := range dtbs {
		dtb := filepath.Join(dir, filepath.FromSlash(name))
		if _, err := os.Stat(dtb); err != nil {
			return fmt.Errorf("%s: kernel: dtbs: %s has no %s", filepath.Join(b.board.Dir, "board.yaml"), b.kernelPackage, name)
		}
		b.kernel.dtbs = append(b.kernel.dtbs, dtb)
	}
	return nil
}

// makeInitramfs makes the stage between kernel and root: its program, and the
// board's modules in the order in which they load.
func (b *build) makeInitramfs(ctx context.Context) error {
	t := rootfs.NewTree()
	for _, dir := range []string{"dev", "proc", "sys", "run", "newroot"} {
		if err := t.Dir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := t.Device("dev/console", 5, 1, 0o600); err != nil {
		return err
	}
	// Go's runtime ends a program that has no descriptors 0 to 2 and cannot
	// open this: a console that is not there would be a panic.
	if err := t.Device("dev/null", 1, 3, 0o666); err != nil {
		return err
	}
	program, err := b.compile(ctx, "./gweinit/initramfs")
	if err != nil {
		return err
	}
	if err := t.File("init", 0o755, program, "gweinit/initramfs"); err != nil {
		return err
	}
	files, err := kernel.Modules(b.kernel.modules, b.board.Kernel.Modules)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(b.board.Dir, "board.yaml"), err)
	}
	manifest := "disk " + b.board.Disk + "\n"
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(b.kernel.modules, file))
		if err != nil {
			return err
		}
		path := "modules/" + filepath.Base(file)
		manifest += "module /" + path + "\n"
		if err := t.File(path, 0o644, data, b.kernelPackage); err != nil {
			return err
		}
	}
	if err := t.File("manifest", 0o644, []byte(manifest), "the builder"); err != nil {
		return err
	}
	dir, err := b.cache.Get(ctx, "initramfs", b.key(nil, b.libraries, t.Hash()), func(tmp string) error {
		return t.Initramfs(filepath.Join(tmp, "initramfs.zst"))
	})
	b.initramfs = filepath.Join(dir, "initramfs.zst")
	return err
}

// makeBootImage joins kernel, the root's hash and initramfs. Its time is the same
// in all builds: an image with the same content has to be the same image.
func (b *build) makeBootImage(ctx context.Context) error {
	k := b.board.Kernel
	dir, err := b.cache.Get(ctx, "vmlinuz", b.key(nil, b.libraries, b.sha(b.kernelPackage), k.Format, k.Compression, fmt.Sprint(k.Load)), func(tmp string) error {
		b.Log("preparing the kernel")
		vmlinuz, err := os.ReadFile(b.kernel.vmlinuz)
		if err != nil {
			return err
		}
		parsed, err := kernel.Parse(vmlinuz, k.Format, k.Load)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(b.kernel.vmlinuz), err)
		}
		data, err := parsed.Compress(k.Compression)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tmp, "kernel"), data, 0o644); err != nil {
			return err
		}
		parsed.Data = nil
		text, err := json.Marshal(parsed)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(tmp, "kernel.json"), text, 0o644)
	})
	if err != nil {
		return err
	}
	var parsed kernel.Kernel
	text, err := os.ReadFile(filepath.Join(dir, "kernel.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		return err
	}
	if err := b.board.CheckMemory(parsed.Load, parsed.Size); err != nil {
		return fmt.Errorf("%s: with kernel %s: %w", filepath.Join(b.board.Dir, "board.yaml"), b.kernel.version, err)
	}
	image := kernel.BootImage{
		Format: b.board.UBoot.Format, Arch: k.Arch, Kernel: filepath.Join(dir, "kernel"), Compression: k.Compression,
		Load: parsed.Load, Entry: parsed.Entry, DTBs: b.kernel.dtbs,
	}
	hash := rootfs.NewTree()
	if err := hash.File("verity", 0o644, []byte(b.verity), "the builder"); err != nil {
		return err
	}
	parts := append([]string{image.Format, image.Arch, filepath.Base(dir), hash.Hash(), filepath.Base(filepath.Dir(b.initramfs)), b.sha(b.kernelPackage)}, k.DTBs...)
	out, err := b.cache.Get(ctx, "boot-image", b.key([]string{"u-boot-tools", "device-tree-compiler"}, parts...), func(tmp string) error {
		image.Initramfs = filepath.Join(tmp, "initramfs")
		if err := hash.Prepend(b.initramfs, image.Initramfs); err != nil {
			return err
		}
		if err := image.Write(ctx, oldest, filepath.Join(tmp, bootImageFile)); err != nil {
			return err
		}
		return os.Remove(image.Initramfs)
	})
	b.bootImage = filepath.Join(out, bootImageFile)
	return err
}

// makeData makes the empty file system of the data partition, which bears the
// same time in all builds.
func (b *build) makeData(ctx context.Context) error {
	b.data = filepath.Join(b.tmp, "data.ext4")
	return disk.WriteData(ctx, oldest, b.data)
}

// makeRoot merges the overlays, their packages and programs into the root.
func (b *build) makeRoot(ctx context.Context) error {
	t := rootfs.NewTree()
	for _, o := range b.overlays {
		// The tree first: its links say where /bin and /lib are.
		if err := o.AddFiles(t); err != nil {
			return err
		}
		for _, p := range o.Packages {
			err := o.AddPackage(t, p.Name, func(visit func(*tar.Header, io.Reader) error) error {
				return debian.Walk(ctx, b.debs[p.Name], visit)
			})
			if err != nil {
				return err
			}
		}
		for _, p := range o.Programs {
			data, err := b.compile(ctx, p.Package)
			if err != nil {
				return err
			}
			if err := t.File(p.Path, 0o755, data, p.Package); err != nil {
				return err
			}
		}
	}
	if err := b.addModules(t); err != nil {
		return err
	}
	// os-release(5). What runs on the device reads its name and version here.
	release := fmt.Sprintf("NAME=\"Gateway Engine\"\nID=gwe\nID_LIKE=debian\nVERSION_ID=%s\nIMAGE_ID=%s\nIMAGE_VERSION=%[1]s\n", b.manifest.Version, b.Board)
	if err := t.File("etc/os-release", 0o644, []byte(release), "the builder"); err != nil {
		return err
	}
	// For PID 1, when the one on the disk is lost.
	data, err := os.ReadFile(b.data)
	if err != nil {
		return err
	}
	if err := t.File("usr/share/gweinit/data.ext4", 0o644, data, "the builder"); err != nil {
		return err
	}
	for _, o := range b.overlays {
		if o.Applets != "" {
			if err := rootfs.AddApplets(t, o.Applets); err != nil {
				return fmt.Errorf("overlay %s: %w", o.Name, err)
			}
		}
	}
	if _, err := t.Open("usr/sbin/init"); err != nil {
		return fmt.Errorf("the root has no usr/sbin/init: overlays %v lack \"base\": %w", b.Overlays, err)
	}
	if err := checkNetwork(t); err != nil {
		return err
	}
	if err := b.addKeys(t); err != nil {
		return err
	}
	if err := b.addApps(t); err != nil {
		return err
	}
	return b.squash(ctx, t)
}

// squash compresses the root, and appends the tree of hashes by which Linux
// checks what it reads of it.
func (b *build) squash(ctx context.Context, t *rootfs.Tree) error {
	const image, params = "root.squashfs", "verity"
	dir, err := b.cache.Get(ctx, "root", b.key([]string{"squashfs-tools"}, t.Hash(), fmt.Sprint(b.time.Unix())), func(tmp string) error {
		b.Log("compressing the root")
		if err := t.Squash(ctx, filepath.Join(tmp, image), b.time); err != nil {
			return err
		}
		p, err := appendTree(filepath.Join(tmp, image))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(tmp, params), []byte(p.Encode()), 0o644)
	})
	if err != nil {
		return err
	}
	line, err := os.ReadFile(filepath.Join(dir, params))
	if err != nil {
		return err
	}
	p, err := verity.Parse(string(line))
	if err != nil {
		return err
	}
	b.root, b.verity, b.manifest.RootHash = filepath.Join(dir, image), p.Encode(), hex.EncodeToString(p.RootHash[:])
	return nil
}

func appendTree(path string) (verity.Params, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return verity.Params{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return verity.Params{}, err
	}
	p, err := hashtree.Append(f, info.Size())
	if err != nil {
		return verity.Params{}, err
	}
	return p, f.Close()
}

// checkNetwork checks the network settings of the image as the device will.
func checkNetwork(t *rootfs.Tree) error {
	const path = "etc/gweinit/network.yaml"
	file, err := t.Open(path)
	if err != nil {
		return fmt.Errorf("the root has no %s, which the overlay \"base\" brings: %w", path, err)
	}
	if _, err := config.ParseNetwork(file.Data); err != nil {
		return fmt.Errorf("%s of the overlays: %w", path, err)
	}
	return nil
}

// addModules adds the modules that are loaded once their device or user
// appears: those of the board and of the overlays, with depmod's lists.
func (b *build) addModules(t *rootfs.Tree) error {
	files, err := kernel.RootModules(b.kernel.modules, b.board.Kernel.Drivers)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(b.board.Dir, "board.yaml"), err)
	}
	for _, o := range b.overlays {
		more, err := kernel.RootModules(b.kernel.modules, o.Modules)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(o.Dir, "overlay.yaml"), err)
		}
		files = append(files, more...)
	}
	slices.Sort(files)
	files = slices.Compact(files)
	lists, err := kernel.Lists(b.kernel.modules, files)
	if err != nil {
		return err
	}
	for _, file := range files {
		if lists[file], err = os.ReadFile(filepath.Join(b.kernel.modules, file)); err != nil {
			return err
		}
	}
	for name, data := range lists {
		if err := t.File(path.Join("usr/lib/modules", b.kernel.version, name), 0o644, data, b.kernelPackage); err != nil {
			return err
		}
	}
	return nil
}

// compile compiles a main package of the project for the board and returns
// the program. The Go tool has its own cache.
func (b *build) compile(ctx context.Context, pkg string) ([]byte, error) {
	out := filepath.Join(b.tmp, "program")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Dir = b.Project
	cmd.Env = b.goEnv(ctx)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile %s: %w\n%s", pkg, err, bytes.TrimSpace(msg))
	}
	info, err := buildinfo.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("compile %s: %w", pkg, err)
	}
	b.manifest.Go = info.GoVersion
	b.addGoModules(info)
	return os.ReadFile(out)
}

// goEnv is the environment of the Go tool that compiles for the board.
func (b *build) goEnv(ctx context.Context) []string {
	// What the user has set for other programs must not reach the device:
	// variables, nor the file that "go env -w" writes.
	env := append(os.Environ(), "GOENV=off", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off",
		"CGO_ENABLED=0", "GOOS=linux", "GOARM=", "GOARM64=", "GOMIPS=", "GOMIPS64=")
	if proxy, err := exec.CommandContext(ctx, "go", "env", "GOPROXY", "GONOSUMDB", "GOSUMDB").Output(); err == nil {
		if v := strings.Split(string(proxy), "\n"); len(v) >= 3 { // where modules come from is the user's
			env = append(env, "GOPROXY="+v[0], "GONOSUMDB="+v[1], "GOSUMDB="+v[2])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b.board.Go)) {
		env = append(env, key+"="+b.board.Go[key])
	}
	return env
}

// addGoModules notes of which modules a program is made.
func (b *build) addGoModules(info *buildinfo.BuildInfo) {
	for _, dep := range info.Deps {
		m := GoModule{dep.Path, dep.Version, dep.Sum}
		if !slices.Contains(b.manifest.GoModules, m) {
			b.manifest.GoModules = append(b.manifest.GoModules, m)
		}
	}
}

func writeFrom(r io.Reader, to string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	return f.Close()
}
