package debian

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestAptConf(t *testing.T) {
	const want = `Acquire::http::Proxy "http://proxy.example.invalid:3128";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
APT::Update::Error-Mode "any";
APT::Architecture "mipsel";
APT::Architectures:: "mipsel";
APT::Sandbox::User "root";
Dir::State "/cache/apt/mipsel/state";
Dir::State::Lists "/cache/apt/mipsel/lists";
Dir::State::status "/cache/apt/mipsel/status";
Dir::Cache "/cache/apt/mipsel/cache";
Dir::Etc::sourcelist "/cache/apt/mipsel/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
`
	host, _, _ := strings.Cut(want, "Acquire::Allow")
	if got := aptConf(host, "/cache/apt/mipsel", "mipsel", true); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	got := aptConf("", "/cache/apt/source", "", false)
	if strings.Contains(got, "APT::Arch") || strings.Contains(got, "Sandbox") {
		t.Errorf("the sources' root, not as root:\n%s", got)
	}
}

func TestSourcesList(t *testing.T) {
	main, security := "http://a.example.invalid/debian/", "http://b.example.invalid/debian-security"
	const want = `deb [signed-by=/k.gpg target=Packages] http://a.example.invalid/debian/ bookworm main non-free-firmware
deb [signed-by=/k.gpg target=Packages] http://a.example.invalid/debian/ bookworm-updates main non-free-firmware
deb [signed-by=/k.gpg target=Packages] http://b.example.invalid/debian-security bookworm-security main non-free-firmware
`
	if got := sourcesList("deb", "Packages", "signed-by=/k.gpg", "bookworm", []string{main, security}); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	const source = `deb-src [signed-by=/k.gpg check-valid-until=no target=Sources] http://a.example.invalid/debian/ bookworm main non-free-firmware
deb-src [signed-by=/k.gpg check-valid-until=no target=Sources] http://a.example.invalid/debian/ bookworm-updates main non-free-firmware
`
	if got := sourcesList("deb-src", "Sources", "signed-by=/k.gpg check-valid-until=no", "bookworm", []string{main}); got != source {
		t.Errorf("got:\n%s\nwant:\n%s", got, source)
	}
}

func TestRemedyFor(t *testing.T) {
	const uri = "http://m.example.invalid/debian/dists/bookworm/InRelease"
	const rest = "\nE: Some index files failed to download. They have been ignored, or old ones used instead."
	for _, c := range []struct {
		out  string
		want error
	}{
		{"E: Failed to fetch " + uri + "  Could not resolve 'm.example.invalid'" + rest, errResolve},
		{"E: Failed to fetch " + uri + "  Temporary failure resolving 'm.example.invalid'" + rest, errResolve},
		{"E: Failed to fetch " + uri + "  Could not connect to 127.0.0.1:1 (127.0.0.1). - connect (111: Connection refused)" + rest, errNetwork},
		{"E: Failed to fetch " + uri + "  Cannot initiate the connection to m.example.invalid:80 (2001:db8::1). - connect (101: Network is unreachable)" + rest, errNetwork},
		{"E: Failed to fetch " + uri + "  Certificate verification failed: The certificate is NOT trusted.  Could not handshake: Error in the certificate verification." + rest, errTLS},
		{"E: Failed to fetch " + uri + "  407  Proxy Authentication Required [IP: 192.0.2.1 3128]" + rest, errLogin},
		{"W: GPG error: http://m.example.invalid/debian bookworm InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 0E98404D386FA1D9\nE: The repository 'http://m.example.invalid/debian bookworm InRelease' is not signed.", errSignature},
		{"E: The repository 'http://m.example.invalid/debian bookworm Release' is not signed.", errSignature},
		{"E: Failed to fetch " + uri + "  Clearsigned file isn't valid, got 'NOSPLIT' (does the network require authentication?)\nE: The repository 'http://m.example.invalid/debian bookworm InRelease' is not signed.", errSignature},
		{"W: OpenPGP signature verification failed: " + uri + ": Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8", errSignature},
		{"E: Release file for " + uri + " is not valid yet (invalid for another 3h 2min 1s). Updates for this repository will not be applied.", errClock},
		{"E: Release file for " + uri + " is expired (invalid since 2d 1h). Updates for this repository will not be applied.", errClock},
		{"E: The repository 'http://m.example.invalid/ubuntu bookworm Release' does not have a Release file.", errNoSuite},
		{"E: Failed to fetch http://m.example.invalid/debian/pool/a_1_arm64.deb  404  Not Found [IP: 192.0.2.1 80]", ErrGone},
		{"E: Version '1.2.3' for 'linux-image-arm64' was not found", ErrGone},
		{"E: Unable to locate package linux-image-6.1.0-1-arm64", ErrGone},
		{"E: Failed to fetch http://m.example.invalid/debian/pool/a_1_arm64.deb  File has unexpected size (10 != 12). Mirror sync in progress?", errSync},
		{"E: Failed to fetch store:/x  Hash Sum mismatch", errSync},
		{"E: Write error - write (28: No space left on device)", errSpace},
		{"E: No packages found", errUnknown},
		{"E: Something else", nil},
	} {
		if got := remedyFor(c.out); got != c.want {
			t.Errorf("%s\ngot:  %v\nwant: %v", c.out, got, c.want)
		}
	}
}

func TestComplaints(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "",
		"noise\nW: one\n\nE: two\nN: three\n": "W: one; E: two",
		"dpkg-deb: error: no\n":               "dpkg-deb: error: no",
		"1\n2\n3\n4\n5\n":                     "2; 3; 4; 5",
		"E: Failed to fetch http://joe:s3cr@t@m.example.invalid/a@b  404": "E: Failed to fetch http://***@m.example.invalid/a@b  404",
	} {
		if got := complaints(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestRunWithoutDebian(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := run(t.Context(), "", nil, "apt-get", "update"); !errors.Is(err, errNoDebian) {
		t.Errorf("apt-get: %v", err)
	}
	if _, err := run(t.Context(), "", nil, "dpkg-source", "-x"); !errors.Is(err, errNoDpkgDev) {
		t.Errorf("dpkg-source: %v", err)
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := run(ctx, "", nil, "sleep", "60"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
