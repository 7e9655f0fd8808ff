package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"

	"github.com/exosite/gwe/builder/debian"
	"github.com/exosite/gwe/builder/disk"
)

// The parts of a manifest are known by their references in the document.
const (
	firmwareRef   = "firmware"
	ubootRef      = "u-boot"
	imageRef      = "image"
	compressedRef = "image-compressed"
	appRef        = "app:"       // and its name
	partitionRef  = "partition:" // and its name
	packageRef    = "pkg:deb/"   // a package URL, as the next one
	moduleRef     = "pkg:golang/"
	goRef         = "go"
)

// builderName is the tool that made a document of ours.
const builderName = "github.com/exosite/gwe/builder"

// What CycloneDX has no place for is in properties.
const (
	propArch          = "gwe:arch"
	propBootImage     = "gwe:slot:boot-image"
	propBuiltUsing    = "gwe:built-using"
	propGUID          = "gwe:guid"
	propKey           = "gwe:slot:key"
	propKernel        = "gwe:kernel"
	propKernelPackage = "gwe:kernel-package"
	propOffset        = "gwe:offset"
	propOverlay       = "gwe:overlay"
	propPackage       = "gwe:package"
	propRelease       = "gwe:release"
	propRoot          = "gwe:slot:root"
	propRootHash      = "gwe:slot:root-hash"
	propSize          = "gwe:size"
	propSource        = "gwe:source"
	propSourceVersion = "gwe:source-version"
	propSuite         = "gwe:suite"
	propSum           = "gwe:sum"
)

// Encode writes the manifest as a CycloneDX document in JSON. The same
// manifest is the same text: it has neither the time of day nor a random
// serial number in it.
func (m *Manifest) Encode(w io.Writer) error {
	e := cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON)
	e.SetPretty(true).SetEscapeHTML(false)
	return e.EncodeVersion(m.bom(), cyclonedx.SpecVersion1_6)
}

func (m *Manifest) bom() *cyclonedx.BOM {
	var parts []cyclonedx.Component
	ubootVersion := ""
	for _, p := range m.Packages {
		purl := packageURL("deb/debian", p.Name, p.Version, "arch", p.Arch, "distro", m.Suite)
		props := properties(propArch, p.Arch, propSource, p.Source, propSourceVersion, p.SourceVersion, propSize, itoa(p.Size))
		for _, s := range p.BuiltUsing {
			props = append(props, properties(propBuiltUsing, s.String())...)
		}
		if p.Name == m.UBoot.Package {
			ubootVersion = p.Version
		}
		parts = append(parts, cyclonedx.Component{
			BOMRef: purl, Type: cyclonedx.ComponentTypeLibrary, Name: p.Name, Version: p.Version,
			PackageURL: purl, Hashes: hashes(p.SHA256), Properties: optional(props),
		})
	}
	uboot := cyclonedx.Component{
		BOMRef: ubootRef, Type: cyclonedx.ComponentTypeFirmware, Name: "u-boot", Version: ubootVersion,
		Hashes: hashes(m.UBoot.SHA256), Properties: optional(properties(propPackage, m.UBoot.Package)),
	}
	if s := m.UBoot.Source; s != nil {
		var files []cyclonedx.Component
		for _, name := range slices.Sorted(maps.Keys(s.SHA256)) {
			files = append(files, cyclonedx.Component{Type: cyclonedx.ComponentTypeFile, Name: name, Hashes: hashes(s.SHA256[name])})
		}
		uboot.Version = s.Version
		uboot.Pedigree = &cyclonedx.Pedigree{Ancestors: &[]cyclonedx.Component{{
			Type: cyclonedx.ComponentTypeFirmware, Name: s.Name, Version: s.Version, Components: optional(files),
			PackageURL: packageURL("deb/debian", s.Name, s.Version, "arch", "source", "distro", m.Suite),
		}}}
	}
	parts = append(parts, uboot)
	parts = append(parts, cyclonedx.Component{
		BOMRef: goRef, Type: cyclonedx.ComponentTypeLibrary, Name: "stdlib", Version: m.Go,
		PackageURL: packageURL("golang", "stdlib", strings.TrimPrefix(m.Go, "go")),
	})
	for _, g := range m.GoModules {
		purl := packageURL("golang", strings.ToLower(g.Path), g.Version)
		parts = append(parts, cyclonedx.Component{
			BOMRef: purl, Type: cyclonedx.ComponentTypeLibrary, Name: g.Path, Version: g.Version,
			PackageURL: purl, Properties: optional(properties(propSum, g.Sum)),
		})
	}
	for _, a := range m.Apps {
		parts = append(parts, cyclonedx.Component{
			BOMRef: appRef + a.Name, Type: cyclonedx.ComponentTypeApplication, Name: a.Name, Version: a.Version, Hashes: hashes(a.SHA256),
			Properties: optional(properties(propSize, itoa(a.Size))),
		})
	}
	for _, p := range m.Partitions {
		parts = append(parts, cyclonedx.Component{
			BOMRef: partitionRef + p.Name, Type: cyclonedx.ComponentTypeFile, Name: p.Name, Hashes: hashes(p.SHA256),
			Properties: optional(properties(propGUID, p.GUID, propOffset, itoa(p.Offset), propSize, itoa(p.Size))),
		})
	}
	for _, f := range []struct {
		ref string
		File
	}{{imageRef, m.Image}, {compressedRef, m.Compressed}} {
		parts = append(parts, cyclonedx.Component{
			BOMRef: f.ref, Type: cyclonedx.ComponentTypeFile, Name: f.Name, Hashes: hashes(f.SHA256),
			Properties: optional(properties(propSize, itoa(f.Size))),
		})
	}

	props := properties(propArch, m.Arch, propSuite, m.Suite, propKernel, m.Kernel, propKernelPackage, m.KernelPackage,
		propRelease, strconv.FormatBool(m.Release), propBootImage, itoa(m.Slot.BootImage), propRoot, itoa(m.Slot.Root), propRootHash, m.RootHash)
	for _, id := range m.Keys {
		props = append(props, properties(propKey, id)...)
	}
	for _, o := range m.Overlays {
		props = append(props, properties(propOverlay, o)...)
	}
	tools := []cyclonedx.Component{{Type: cyclonedx.ComponentTypeApplication, Name: builderName}}
	for _, name := range slices.Sorted(maps.Keys(m.Tools)) {
		tools = append(tools, cyclonedx.Component{Type: cyclonedx.ComponentTypeApplication, Name: name, Version: m.Tools[name]})
	}
	var refs []string
	for _, p := range parts {
		refs = append(refs, p.BOMRef)
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: time.Unix(m.Epoch, 0).UTC().Format(time.RFC3339),
		Tools:     &cyclonedx.ToolsChoice{Components: &tools},
		Component: &cyclonedx.Component{
			BOMRef: firmwareRef, Type: cyclonedx.ComponentTypeFirmware, Name: m.Board, Version: m.Version, Properties: &props,
		},
	}
	bom.Components = &parts
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: firmwareRef, Dependencies: &refs}}
	return bom
}

// packageURL is one of the package-url specification; the qualifiers are
// pairs of a name and a value, sorted by name.
func packageURL(kind, name, version string, qualifiers ...string) string {
	var path []string
	for s := range strings.SplitSeq(name, "/") {
		path = append(path, purlEscape(s))
	}
	s := "pkg:" + kind + "/" + strings.Join(path, "/") + "@" + purlEscape(version)
	between := "?"
	for i := 0; i < len(qualifiers); i += 2 {
		s += between + qualifiers[i] + "=" + purlEscape(qualifiers[i+1])
		between = "&"
	}
	return s
}

// purlEscape encodes all but what the specification says must not be encoded.
func purlEscape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || strings.IndexByte(".-_~:", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// properties are pairs of a name and a value; empty values are left out.
func properties(pairs ...string) []cyclonedx.Property {
	var props []cyclonedx.Property
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			props = append(props, cyclonedx.Property{Name: pairs[i], Value: pairs[i+1]})
		}
	}
	return props
}

func hashes(sha256 string) *[]cyclonedx.Hash {
	if sha256 == "" {
		return nil
	}
	return &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: sha256}}
}

// optional is nil for what would be an empty array in the document.
func optional[T any](s []T) *[]T {
	if len(s) == 0 {
		return nil
	}
	return &s
}

func elements[T any](s *[]T) []T {
	if s == nil {
		return nil
	}
	return *s
}

var errNotOurs = errors.New("not a BOARD.json that this builder has written: build the image again, or name another file")

// Decode reads what Encode has written.
func Decode(r io.Reader) (*Manifest, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var format struct{ BOMFormat string }
	if err := json.Unmarshal(text, &format); err != nil {
		return nil, fmt.Errorf("no JSON object: %w: %w", err, errNotOurs)
	}
	if format.BOMFormat != cyclonedx.BOMFormat {
		return nil, fmt.Errorf("no CycloneDX document: %w", errNotOurs)
	}
	var bom cyclonedx.BOM
	if err := json.Unmarshal(text, &bom); err != nil {
		return nil, fmt.Errorf("no CycloneDX document: %w: %w", err, errNotOurs)
	}
	m := &Manifest{}
	d := decoder{props: map[string][]string{}}
	if bom.Metadata == nil || bom.Metadata.Component == nil || bom.Metadata.Tools == nil {
		return nil, fmt.Errorf("a CycloneDX document of another tool: %w", errNotOurs)
	}
	ours := false
	for _, t := range elements(bom.Metadata.Tools.Components) {
		if t.Name == builderName {
			ours = true
			continue
		}
		if m.Tools == nil {
			m.Tools = map[string]string{}
		}
		m.Tools[t.Name] = t.Version
	}
	if !ours {
		return nil, fmt.Errorf("a CycloneDX document of another tool: %w", errNotOurs)
	}
	d.enter(bom.Metadata.Component)
	made, err := time.Parse(time.RFC3339, bom.Metadata.Timestamp)
	if err != nil {
		d.fail(err)
	}
	m.Epoch = made.Unix()
	m.Board, m.Version = bom.Metadata.Component.Name, bom.Metadata.Component.Version
	m.Arch, m.Suite, m.Overlays = d.text(propArch), d.text(propSuite), d.props[propOverlay]
	m.Kernel, m.KernelPackage = d.text(propKernel), d.text(propKernelPackage)
	if m.Release, err = strconv.ParseBool(d.text(propRelease)); err != nil {
		d.fail(fmt.Errorf("property %s: %w", propRelease, err))
	}
	m.Slot, m.RootHash = SlotSize{d.number(propBootImage), d.number(propRoot)}, d.text(propRootHash)
	m.Keys = d.props[propKey]
	missing := []string{ubootRef, goRef, imageRef, compressedRef}
	for _, c := range elements(bom.Components) {
		d.enter(&c)
		missing = slices.DeleteFunc(missing, func(ref string) bool { return ref == c.BOMRef })
		switch ref := c.BOMRef; {
		case ref == ubootRef:
			m.UBoot = d.uboot(c)
		case ref == goRef:
			m.Go = c.Version
		case ref == imageRef:
			m.Image = d.file(c)
		case ref == compressedRef:
			m.Compressed = d.file(c)
		case strings.HasPrefix(ref, appRef):
			m.Apps = append(m.Apps, App{c.Name, c.Version, d.sha256(c), d.number(propSize)})
		case strings.HasPrefix(ref, partitionRef):
			m.Partitions = append(m.Partitions, disk.Partition{
				Name: c.Name, Offset: d.number(propOffset), Size: d.number(propSize), GUID: d.text(propGUID), SHA256: d.sha256(c),
			})
		case strings.HasPrefix(ref, packageRef):
			m.Packages = append(m.Packages, d.pkg(c))
		case strings.HasPrefix(ref, moduleRef):
			m.GoModules = append(m.GoModules, GoModule{c.Name, c.Version, d.text(propSum)})
		}
	}
	if d.err == nil && len(missing) > 0 {
		return nil, fmt.Errorf("the components %q are missing: %w", missing, errNotOurs)
	}
	return m, d.err
}

// decoder reads components one after the other. Its error is the first.
type decoder struct {
	what  string              // it is reading
	props map[string][]string // of that
	err   error
}

func (d *decoder) enter(c *cyclonedx.Component) {
	d.what = cmp.Or(c.BOMRef, c.Name)
	clear(d.props)
	for _, p := range elements(c.Properties) {
		if p.Value != "" {
			d.props[p.Name] = append(d.props[p.Name], p.Value)
		}
	}
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = fmt.Errorf("component %q: %w: %w", d.what, err, errNotOurs)
	}
}

func (d *decoder) text(name string) string {
	if v := d.props[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (d *decoder) number(name string) int64 {
	n, err := strconv.ParseInt(d.text(name), 10, 64)
	if err != nil {
		d.fail(fmt.Errorf("property %s: %w", name, err))
	}
	return n
}

func (d *decoder) sha256(c cyclonedx.Component) string {
	for _, h := range elements(c.Hashes) {
		if h.Algorithm == cyclonedx.HashAlgoSHA256 {
			return h.Value
		}
	}
	d.fail(fmt.Errorf("%s has no SHA-256", c.Name))
	return ""
}

func (d *decoder) file(c cyclonedx.Component) File {
	if !filepath.IsLocal(c.Name) || filepath.Base(c.Name) != c.Name {
		d.fail(fmt.Errorf("%q is no file name", c.Name))
	}
	return File{c.Name, d.number(propSize), d.sha256(c)}
}

func (d *decoder) pkg(c cyclonedx.Component) debian.Package {
	p := debian.Package{
		Name: c.Name, Version: c.Version, Arch: d.text(propArch), Source: d.text(propSource), SourceVersion: d.text(propSourceVersion),
		SHA256: d.sha256(c), Size: d.number(propSize),
	}
	for _, text := range d.props[propBuiltUsing] {
		s, err := debian.ParseSourceRef(text)
		if err != nil {
			d.fail(err)
		}
		p.BuiltUsing = append(p.BuiltUsing, s)
	}
	return p
}

func (d *decoder) uboot(c cyclonedx.Component) UBoot {
	u := UBoot{Package: d.text(propPackage), SHA256: d.sha256(c)}
	if c.Pedigree == nil {
		return u
	}
	for _, a := range elements(c.Pedigree.Ancestors) {
		u.Source = &Source{a.Name, a.Version, map[string]string{}}
		for _, f := range elements(a.Components) {
			if !filepath.IsLocal(f.Name) {
				d.fail(fmt.Errorf("%q is no file name", f.Name))
			}
			u.Source.SHA256[f.Name] = d.sha256(f)
		}
	}
	return u
}
