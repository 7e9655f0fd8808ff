package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lists writes lib/modules/VERSION with depmod's lists.
func lists(t *testing.T, dep, builtin string) string {
	dir := filepath.Join(t.TempDir(), "6.1.0-50-arm64")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"modules.dep": dep, "modules.builtin": builtin} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// As depmod writes them: closed, and in no order that insmod could follow.
const (
	dep = `kernel/drivers/ata/ata_piix.ko: kernel/drivers/scsi/scsi_common.ko kernel/drivers/ata/libata.ko kernel/drivers/scsi/scsi_mod.ko
kernel/drivers/ata/libata.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko
kernel/drivers/scsi/scsi_mod.ko: kernel/drivers/scsi/scsi_common.ko
kernel/drivers/scsi/scsi_common.ko:
kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko
kernel/fs/nls/nls_ascii.ko:
`
	builtin = `kernel/fs/devpts/devpts.ko
kernel/drivers/mmc/core/mmc-block.ko
`
)

func TestModules(t *testing.T) {
	const ata = "scsi_common.ko scsi_mod.ko libata.ko ata_piix.ko"
	const verity = "dm-mod.ko dm-bufio.ko.xz dm-verity.ko.xz"
	for _, tt := range []struct{ name, wanted, want string }{
		{"nothing", "", ""},
		{"alone", "nls_ascii", "nls_ascii.ko"},
		{"what it needs comes first", "ata_piix", ata},
		{"in the order of the board", "nls_ascii ata_piix", "nls_ascii.ko " + ata},
		{"each once", "libata ata_piix libata", ata},
		{"underscores for dashes, compressed", "dm_verity", verity},
		{"dashes", "dm-verity", verity},
		{"dashes for underscores", "nls-ascii", "nls_ascii.ko"},
		{"built in", "devpts mmc_block mmc-block devpts?", ""},
		{"optional", "ext5? nls_ascii?", "nls_ascii.ko"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, err := Modules(lists(t, dep, builtin), strings.Fields(tt.wanted))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range files {
				if !strings.Contains("\n"+dep, "\n"+f+":") {
					t.Errorf("%s is not in modules.dep", f)
				}
				got = append(got, filepath.Base(f))
			}
			if !slices.Equal(got, strings.Fields(tt.want)) {
				t.Errorf("got  %v\nwant [%s]", got, tt.want)
			}
		})
	}
}

func TestModulesErrors(t *testing.T) {
	for _, tt := range []struct {
		name, dep, builtin, wanted, want string
	}{
		{"unknown ones, all at once", dep, builtin, "ext5 ata_piix devpts wi-fi", "kernel: modules: ext5, wi-fi: not in kernel 6.1.0-50-arm64"},
		{"optional ones aside", dep, builtin, "ext5? ext6", "kernel: modules: ext6: not in kernel"},
		{"a prefix is no name", dep, builtin, "scsi", "modules: scsi: not in kernel"},
		{"no list of what is built in", dep, "", "devpts", "modules: devpts: not in kernel"},
		{"no modules.dep", "", builtin, "devpts", "modules.dep: no such file"},
		{"not depmod's", "kernel/fs/ext4.ko kernel/fs/jbd2.ko\n", "", "ext4", `modules.dep: "kernel/fs/ext4.ko kernel/fs/jbd2.ko" has no colon`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Modules(lists(t, tt.dep, tt.builtin), strings.Fields(tt.wanted))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// A root gets its modules with their soft dependencies, and lists of just these.
func TestRootModules(t *testing.T) {
	dir := lists(t, dep, builtin)
	for name, text := range map[string]string{
		"modules.alias":   "# Aliases\nalias pci:v00008086d*sv* ata_piix\nalias crypto-nls nls_ascii\nalias crypto-nls missing\nalias fs-dm dm_mod\n",
		"modules.softdep": "# Soft dependencies\nsoftdep libata pre: crypto-nls post: dm_mod\nsoftdep dm_verity pre: x\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := RootModules(dir, []string{"ata-piix", "ext5?"})
	if err != nil {
		t.Fatal(err)
	}
	const want = "kernel/drivers/scsi/scsi_common.ko kernel/fs/nls/nls_ascii.ko kernel/drivers/scsi/scsi_mod.ko kernel/drivers/ata/libata.ko kernel/drivers/ata/ata_piix.ko"
	if got := strings.Join(files, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	got, err := Lists(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(dep, "\n")
	for name, want := range map[string]string{
		"modules.dep":     strings.Join(append(lines[:4:4], lines[7]), ""),
		"modules.alias":   "alias pci:v00008086d*sv* ata_piix\nalias crypto-nls nls_ascii\n",
		"modules.softdep": "softdep libata pre: crypto-nls post: dm_mod\n",
		"modules.builtin": builtin,
	} {
		if string(got[name]) != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, got[name], want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%d lists", len(got))
	}
	if got, err := Lists(lists(t, dep, ""), nil); err != nil || len(got) > 0 {
		t.Errorf("of no modules: %v, %v", got, err)
	}
}
