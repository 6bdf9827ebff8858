import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsExchange;
import com.sun.net.httpserver.HttpsParameters;
import com.sun.net.httpserver.HttpsServer;
import java.io.FileInputStream;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

/**
 * An HTTPS server and a client that know nothing but the stores that `handfast join` wrote.
 *
 *   java Mutual.java serve DIR p12|jks ADDRESS PORT      greets its clients by the name in their certificate
 *   java Mutual.java fetch DIR p12|jks URL               prints the greeting; 1 and the reason when TLS refuses
 */
class Mutual {
    public static void main(String[] arguments) throws Exception {
        SSLContext tls = context(Path.of(arguments[1]), arguments[2]);
        if (arguments[0].equals("serve")) {
            serve(tls, new InetSocketAddress(arguments[3], Integer.parseInt(arguments[4])));
        } else {
            fetch(tls, URI.create(arguments[3]));
        }
    }

    private static SSLContext context(Path directory, String suffix) throws Exception {
        char[] password = Files.readString(directory.resolve("store-password")).strip().toCharArray();
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(store(directory.resolve("keystore." + suffix), suffix, password), password);
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store(directory.resolve("truststore." + suffix), suffix, password));
        SSLContext tls = SSLContext.getInstance("TLSv1.3");
        tls.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return tls;
    }

    private static KeyStore store(Path path, String suffix, char[] password) throws Exception {
        KeyStore store = KeyStore.getInstance(suffix.equals("p12") ? "PKCS12" : "JKS");
        try (InputStream stream = new FileInputStream(path.toFile())) {
            store.load(stream, password);
        }
        return store;
    }

    private static void serve(SSLContext tls, InetSocketAddress address) throws Exception {
        HttpsServer server = HttpsServer.create(address, 0);
        server.setHttpsConfigurator(new HttpsConfigurator(tls) {
            @Override
            public void configure(HttpsParameters parameters) {
                SSLParameters chosen = getSSLContext().getDefaultSSLParameters();
                chosen.setNeedClientAuth(true);
                parameters.setSSLParameters(chosen);
            }
        });
        server.createContext("/", exchange -> {
            String client = ((HttpsExchange) exchange).getSSLSession().getPeerPrincipal().getName();
            byte[] greeting = ("hello " + client + "\n").getBytes();
            exchange.sendResponseHeaders(200, greeting.length);
            exchange.getResponseBody().write(greeting);
            exchange.close();
        });
        server.start();
        System.out.println("serving");
    }

    private static void fetch(SSLContext tls, URI url) throws Exception {
        HttpClient client = HttpClient.newBuilder().sslContext(tls).version(HttpClient.Version.HTTP_1_1).build();
        HttpResponse<String> answer = client.send(HttpRequest.newBuilder(url).build(),
                HttpResponse.BodyHandlers.ofString());
        System.out.print(answer.body());
    }
}
