package eureka;

import java.io.IOException;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.netflix.eureka.server.EnableEurekaServer;
import org.springframework.context.annotation.Bean;
import org.springframework.security.config.Customizer;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.web.SecurityFilterChain;

/** The server. With `spring.security.user.password` who asks has to say it. */
@SpringBootApplication
@EnableEurekaServer
public class Eureka {
    public static void main(String[] arguments) throws IOException {
        SpringApplication.run(Eureka.class, arguments);
        // Who started it may be killed; its end of the pipe is closed then.
        while (System.in.read() != -1) {
            continue;
        }
        System.exit(0);
    }

    @Bean
    SecurityFilterChain security(HttpSecurity http, @Value("${spring.security.user.password:}") String password)
            throws Exception {
        http.csrf(csrf -> csrf.disable());
        if (password.isEmpty()) {
            return http.authorizeHttpRequests(all -> all.anyRequest().permitAll()).build();
        }
        return http.authorizeHttpRequests(all -> all.anyRequest().authenticated())
                .httpBasic(Customizer.withDefaults())
                .build();
    }
}
